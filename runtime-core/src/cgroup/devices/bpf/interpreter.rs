//! A judge of device programs that knows nothing of how they are made: for tests, and for the fuzz target `resources`.

/// Runs the few instructions that `program` may use, as the kernel would, on a struct bpf_cgroup_dev_ctx.
pub fn run(program: &[u64], context: [u32; 3]) -> u64 {
    let mut registers = [0u64; 11];
    let mut at = 0usize;
    loop {
        let [op, regs, low, high, a, b, c, d] = program[at].to_ne_bytes();
        let (dst, src) = (usize::from(regs & 15), usize::from(regs >> 4));
        let offset = i16::from_ne_bytes([low, high]);
        let immediate = u32::from_ne_bytes([a, b, c, d]);
        at += 1;
        let jump = |condition: bool| if condition { offset as usize } else { 0 };
        // linux/bpf_common.h and linux/bpf.h
        match op {
            0x61 => registers[dst] = u64::from(context[offset as usize / 4]), // ldxw
            0x54 => registers[dst] = u64::from(registers[dst] as u32 & immediate), // and32
            0x74 => registers[dst] = u64::from(registers[dst] as u32 >> immediate), // rsh32
            0xb4 => registers[dst] = u64::from(immediate),                    // mov32
            0xbc => registers[dst] = u64::from(registers[src] as u32),        // mov32 from a register
            0x15 => at += jump(registers[dst] == immediate as i32 as u64),    // jeq
            0x55 => at += jump(registers[dst] != immediate as i32 as u64),    // jne
            0x5d => at += jump(registers[dst] != registers[src]),             // jne with a register
            0x95 => return registers[0],                                      // exit
            op => panic!("unknown instruction {op:#x}"),
        }
    }
}
