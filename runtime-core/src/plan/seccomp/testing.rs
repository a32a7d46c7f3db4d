//! What a program says, without a kernel: an interpreter for the instructions that seccomp(2) allows.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;

use oci_spec::runtime::LinuxSeccomp;

use super::Filter;
use crate::step::SockFilter;

/// A system call as `struct seccomp_data` shows it, without the instruction pointer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub arch: u32,
    pub number: u32,
    pub args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            16..=60 if offset.is_multiple_of(4) => {
                let argument = self.args[(offset as usize - 16) / 8];
                let low_half = offset.is_multiple_of(8) == cfg!(target_endian = "little");
                if low_half { argument as u32 } else { (argument >> 32) as u32 }
            }
            other => panic!("load from offset {other}"),
        }
    }
}

/// The value that the program returns, and the number of instructions on the way there.
pub fn run(program: &[SockFilter], call: &Call) -> (u32, usize) {
    let (mut accumulator, mut at, mut steps) = (0u32, 0usize, 0usize);
    loop {
        let SockFilter { code, jt, jf, k } = program[at];
        steps += 1;
        let code = u32::from(code);
        if code & 0x07 == libc::BPF_RET {
            return (if code & 0x18 == libc::BPF_A { accumulator } else { k }, steps);
        }
        let branch = |holds: bool| usize::from(if holds { jt } else { jf });
        at += 1 + match (code & 0x07, code & 0xf0) {
            (libc::BPF_LD, _) => {
                assert_eq!(code, libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
                accumulator = call.word(k);
                0
            }
            (libc::BPF_ALU, libc::BPF_AND) => {
                accumulator &= k;
                0
            }
            (libc::BPF_JMP, libc::BPF_JA) => k as usize,
            (libc::BPF_JMP, libc::BPF_JEQ) => branch(accumulator == k),
            (libc::BPF_JMP, libc::BPF_JGT) => branch(accumulator > k),
            (libc::BPF_JMP, libc::BPF_JGE) => branch(accumulator >= k),
            (libc::BPF_JMP, libc::BPF_JSET) => branch(accumulator & k != 0),
            _ => panic!("instruction {at} has code {code:#x}"),
        };
    }
}

/// What the filter says to a call.
pub fn verdict(filter: &Filter, arch: u32, number: u32, args: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    run(&filter.program, &Call { arch, number, args: all }).0
}

/// A profile under `tests/profiles`.
pub fn profile(name: &str) -> LinuxSeccomp {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/profiles").join(name);
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// A profile from JSON text.
pub fn parse(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}
