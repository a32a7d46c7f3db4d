//! Device rules as a BPF_PROG_TYPE_CGROUP_DEVICE program: the kernel calls it for every open(2) and
//! mknod(2) of a device, with the struct bpf_cgroup_dev_ctx in r1, and a result of 0 is EPERM.
//!
//! The program tries one exception after the other. All of them have the same verdict. Where they allow, one must cover the
//! access whole; where they deny, a part of it is enough: who may not write may not open to read and write. The v1 controller
//! decides likewise (security/device_cgroup.c).

use super::{Access, Kind, Rules};

/// struct bpf_insn: opcode, registers, offset and immediate in one little word.
pub(in crate::cgroup) type Instruction = u64;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
/// Reused once the context was read.
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// linux/bpf_common.h and linux/bpf.h: class | size, operation, or source.
const LDX_W: u8 = 0x61;
const AND32: u8 = 0x54;
const RSH32: u8 = 0x74;
const MOV32: u8 = 0xb4;
const MOV32_REG: u8 = 0xbc;
const JEQ: u8 = 0x15;
const JNE: u8 = 0x55;
const JNE_REG: u8 = 0x5d;
const EXIT: u8 = 0x95;

fn instruction(op: u8, dst: u8, src: u8, offset: i16, immediate: u32) -> Instruction {
    let bytes = [op, dst | src << 4];
    let [low, high] = offset.to_ne_bytes();
    let [a, b, c, d] = immediate.to_ne_bytes();
    u64::from_ne_bytes([bytes[0], bytes[1], low, high, a, b, c, d])
}

/// The program that decides as `rules` do.
pub(in crate::cgroup) fn program(rules: &Rules) -> Vec<Instruction> {
    // access_type holds the kind of device in its lower half, the access in its upper.
    let mut program = vec![
        instruction(LDX_W, KIND, CONTEXT, 0, 0),
        instruction(AND32, KIND, 0, 0, 0xffff),
        instruction(LDX_W, ACCESS, CONTEXT, 0, 0),
        instruction(RSH32, ACCESS, 0, 0, 16),
        instruction(LDX_W, MAJOR, CONTEXT, 4, 0),
        instruction(LDX_W, MINOR, CONTEXT, 8, 0),
    ];
    for (devices, access) in &rules.exceptions {
        // A test leaves the block by jumping over the rest of it, so it is built from its end.
        let mut block = verdict(!rules.allowed);
        let mut unless = |op, dst, src, value| {
            let past = block.len() as i16;
            block.insert(0, instruction(op, dst, src, past, value));
        };
        if let Some(minor) = devices.minor {
            unless(JNE, MINOR, 0, minor);
        }
        if let Some(major) = devices.major {
            unless(JNE, MAJOR, 0, major);
        }
        if *access != Access::ALL {
            // What the exception has of what is asked for: nothing to deny, or not all to allow, is not its matter.
            match rules.allowed {
                true => unless(JEQ, SCRATCH, 0, 0),
                false => unless(JNE_REG, SCRATCH, ACCESS, 0),
            }
            block.insert(0, instruction(AND32, SCRATCH, 0, 0, u32::from(access.0)));
            block.insert(0, instruction(MOV32_REG, SCRATCH, ACCESS, 0, 0));
        }
        let kind = match devices.kind {
            Kind::Block => 1,
            Kind::Char => 2,
        };
        let past = block.len() as i16;
        block.insert(0, instruction(JNE, KIND, 0, past, kind));
        program.append(&mut block);
    }
    program.append(&mut verdict(rules.allowed));
    program
}

fn verdict(allow: bool) -> Vec<Instruction> {
    vec![instruction(MOV32, RESULT, 0, 0, u32::from(allow)), instruction(EXIT, 0, 0, 0, 0)]
}

#[cfg(test)]
mod interpreter;

#[cfg(test)]
mod tests {
    use super::super::tests::parse;
    use super::interpreter::run;
    use super::*;

    const BLOCK: u32 = 1;
    const CHAR: u32 = 2;

    fn allows(rules: &Rules, kind: u32, access: &str, major: u32, minor: u32) -> bool {
        let access = u32::from(Access::parse(access).unwrap().0);
        run(&program(rules), [kind | access << 16, major, minor]) == 1
    }

    #[test]
    fn defaults_are_allowed_and_nothing_else() {
        let rules = super::super::rules(None).unwrap();
        for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 42), (10, 200)] {
            assert!(allows(&rules, CHAR, "rwm", major, minor), "{major}:{minor}");
            assert!(!allows(&rules, BLOCK, "r", major, minor), "{major}:{minor}");
        }
        assert!(allows(&rules, CHAR, "m", 9, 9) && allows(&rules, BLOCK, "m", 9, 9));
        assert!(!allows(&rules, CHAR, "r", 1, 1) && !allows(&rules, CHAR, "rm", 1, 1));
        assert!(!allows(&rules, BLOCK, "w", 8, 0));
    }

    #[test]
    fn partial_access_is_no_whole_access() {
        let rules = parse(r#"[{"allow":true,"type":"b","major":8,"minor":1,"access":"r"}]"#).unwrap();
        assert!(allows(&rules, BLOCK, "r", 8, 1));
        assert!(!allows(&rules, BLOCK, "rw", 8, 1));
        assert!(!allows(&rules, BLOCK, "r", 8, 2));
        assert!(!allows(&rules, CHAR, "r", 8, 1));
    }

    #[test]
    fn denied_exceptions_of_an_open_container_are_denied() {
        let rules = parse(
            r#"[{"allow":true,"access":"rwm"},
                {"allow":false,"type":"b","major":8,"access":"rwm"}]"#,
        )
        .unwrap();
        assert!(!allows(&rules, BLOCK, "r", 8, 77));
        assert!(allows(&rules, BLOCK, "rwm", 9, 0));
        assert!(allows(&rules, CHAR, "rwm", 8, 0));
    }

    #[test]
    fn part_of_an_access_that_is_denied_is_enough_to_deny_it() {
        let rules = parse(
            r#"[{"allow":true,"access":"rwm"},
                {"allow":false,"type":"b","major":8,"minor":0,"access":"w"}]"#,
        )
        .unwrap();
        assert!(allows(&rules, BLOCK, "r", 8, 0) && allows(&rules, BLOCK, "rm", 8, 0));
        for access in ["w", "rw", "wm", "rwm"] {
            assert!(!allows(&rules, BLOCK, access, 8, 0), "{access}");
        }
    }

    #[test]
    fn open_container_is_two_instructions_after_the_prologue() {
        let rules = parse(r#"[{"allow":true,"access":"rwm"}]"#).unwrap();
        assert_eq!(program(&rules).len(), 8);
    }
}
