//! Which devices a container may use: `linux.resources.devices`, reduced to a default and its
//! exceptions, as the v1 controller keeps them. v1 is written that set, v2 runs it as a program
//! ([`bpf`]), so both mean the same.

pub(super) mod bpf;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::Error;

/// What is done with a device; a set of the kernel's BPF_DEVCG_ACC_ bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Access(u8);

impl Access {
    const MKNOD: Access = Access(1);
    const READ: Access = Access(2);
    const WRITE: Access = Access(4);
    const ALL: Access = Access(7);

    fn parse(text: &str) -> Option<Access> {
        let mut bits = 0;
        for letter in text.chars() {
            bits |= match letter {
                'r' => Access::READ.0,
                'w' => Access::WRITE.0,
                'm' => Access::MKNOD.0,
                _ => return None,
            };
        }
        (bits != 0).then_some(Access(bits))
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (access, letter) in [(Access::READ, 'r'), (Access::WRITE, 'w'), (Access::MKNOD, 'm')] {
            if self.0 & access.0 != 0 {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Block,
    Char,
}

/// The devices that an exception is about; `None` is every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Devices {
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
}

impl Devices {
    /// Whether all that `other` is about is in it.
    fn includes(&self, other: &Devices) -> bool {
        let all = |own: Option<u32>, other| own.is_none() || own == other;
        self.kind == other.kind && all(self.major, other.major) && all(self.minor, other.minor)
    }

    /// Whether some device is in both.
    fn overlaps(&self, other: &Devices) -> bool {
        let some = |own: Option<u32>, other: Option<u32>| own.is_none() || other.is_none() || own == other;
        self.kind == other.kind && some(self.major, other.major) && some(self.minor, other.minor)
    }
}

/// A default for all devices, and the exceptions from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rules {
    allowed: bool,
    exceptions: Vec<(Devices, Access)>,
}

/// What every container may use besides what it asks for; these rules come last, as in runc, so none of them can be taken
/// away. Making nodes is harmless: using them is what is ruled on; where a container may do everything but what it is denied
/// by name, that stays denied.
const DEFAULTS: [(Devices, Access); 11] = [
    (char(None, None), Access::MKNOD),
    (Devices { kind: Kind::Block, major: None, minor: None }, Access::MKNOD),
    (char(Some(1), Some(3)), Access::ALL),    // null
    (char(Some(1), Some(8)), Access::ALL),    // random
    (char(Some(1), Some(7)), Access::ALL),    // full
    (char(Some(5), Some(0)), Access::ALL),    // tty
    (char(Some(1), Some(5)), Access::ALL),    // zero
    (char(Some(1), Some(9)), Access::ALL),    // urandom
    (char(Some(136), None), Access::ALL),     // pts/*
    (char(Some(5), Some(2)), Access::ALL),    // ptmx
    (char(Some(10), Some(200)), Access::ALL), // net/tun: gone in runc 1.2, missed, back in 1.2.4
];

const fn char(major: Option<u32>, minor: Option<u32>) -> Devices {
    Devices { kind: Kind::Char, major, minor }
}

/// The rules of a container: nothing, then `linux.resources.devices` in order, then the defaults.
pub(super) fn rules(resources: Option<&LinuxResources>) -> Result<Rules, Error> {
    let mut rules = Rules { allowed: false, exceptions: Vec::new() };
    let asked = resources.and_then(|resources| resources.devices().as_ref());
    for (index, rule) in asked.into_iter().flatten().enumerate() {
        let bad = || Error::DeviceRule { index };
        let access = rule.access().as_deref().and_then(Access::parse).ok_or_else(bad)?;
        match kind(rule).ok_or_else(bad)? {
            // Type `a` resets everything, whatever numbers and accesses it names.
            None => rules = Rules { allowed: rule.allow(), exceptions: Vec::new() },
            Some(kind) => {
                let major = number(rule.major()).ok_or_else(bad)?;
                let minor = number(rule.minor()).ok_or_else(bad)?;
                let devices = Devices { kind, major, minor };
                rules
                    .except(devices, access, rule.allow())
                    .map_err(|()| Error::DeviceHole { index: Some(index), rule: rule.to_string() })?;
            }
        }
    }
    let open = rules.allowed;
    for (devices, access) in DEFAULTS.into_iter().filter(|(devices, _)| !(open && devices.major.is_none())) {
        rules
            .except(devices, access, true)
            .map_err(|()| Error::DeviceHole { index: None, rule: line(&devices, access) })?;
    }
    Ok(rules)
}

fn kind(rule: &LinuxDeviceCgroup) -> Option<Option<Kind>> {
    match rule.typ() {
        None | Some(LinuxDeviceType::A) => Some(None),
        Some(LinuxDeviceType::B) => Some(Some(Kind::Block)),
        Some(LinuxDeviceType::C) => Some(Some(Kind::Char)),
        Some(LinuxDeviceType::U | LinuxDeviceType::P) => None,
    }
}

/// A device number of a rule; `Some(None)` is every one. Above 31 bits there is none.
fn number(number: Option<i64>) -> Option<Option<u32>> {
    match number {
        None | Some(-1) => Some(None),
        Some(number) => u32::try_from(number).ok().filter(|number| *number <= i32::MAX as u32).map(Some),
    }
}

impl Rules {
    /// Takes `access` to `devices` in (allow) or out. What agrees with the default takes it out of the exceptions that
    /// are about these devices or some of them, what differs adds one.
    fn except(&mut self, devices: Devices, access: Access, allow: bool) -> Result<(), ()> {
        if allow != self.allowed {
            match self.exceptions.iter_mut().find(|(other, _)| *other == devices) {
                Some((_, has)) => has.0 |= access.0,
                None => self.exceptions.push((devices, access)),
            }
            return Ok(());
        }
        // A list of exceptions has no words for a hole in one of them, and the v1 controller ignores, silently, what would
        // cut it. A rule that is not kept must not look as if it were.
        let holed = |(other, has): &(Devices, Access)| {
            has.0 & access.0 != 0 && devices.overlaps(other) && !devices.includes(other)
        };
        if self.exceptions.iter().any(holed) {
            return Err(());
        }
        for (_, has) in self.exceptions.iter_mut().filter(|(other, _)| devices.includes(other)) {
            has.0 &= !access.0;
        }
        self.exceptions.retain(|(_, has)| has.0 != 0);
        Ok(())
    }

    /// What systemd's `DeviceAllow` says; `None` where it has no words: for what is denied, and for one minor of every major.
    pub(super) fn systemd(&self) -> Option<Vec<(String, String)>> {
        let device = |devices: &Devices| {
            let kind = match devices.kind {
                Kind::Block => "block",
                Kind::Char => "char",
            };
            match (devices.major, devices.minor) {
                (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
                // By number, where the manual speaks of names: systemd understands both since 240.
                (Some(major), None) => Some(format!("{kind}-{major}")),
                (None, None) => Some(format!("{kind}-*")),
                (None, Some(_)) => None,
            }
        };
        let one = |(devices, access): &(Devices, Access)| Some((device(devices)?, access.to_string()));
        (!self.allowed).then(|| self.exceptions.iter().map(one).collect()).flatten()
    }

    /// The v1 writes: each file with its lines. First the default, which drops all that was inherited.
    pub(super) fn v1(&self) -> [(&'static str, Vec<String>); 2] {
        const FILES: [&str; 2] = ["devices.deny", "devices.allow"];
        let default = (FILES[usize::from(self.allowed)], vec!["a".to_owned()]);
        let exceptions = self.exceptions.iter().map(|(devices, access)| line(devices, *access));
        [default, (FILES[usize::from(!self.allowed)], exceptions.collect())]
    }
}

fn line(devices: &Devices, access: Access) -> String {
    let kind = match devices.kind {
        Kind::Block => 'b',
        Kind::Char => 'c',
    };
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    format!("{kind} {}:{} {access}", number(devices.major), number(devices.minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn parse(devices: &str) -> Result<Rules, Error> {
        let resources = serde_json::from_str(&format!(r#"{{"devices":{devices}}}"#)).unwrap();
        rules(Some(&resources))
    }

    #[test]
    fn without_rules_only_the_defaults_are_allowed() {
        let [default, (file, lines)] = rules(None).unwrap().v1();
        assert_eq!(default, ("devices.deny", vec!["a".to_owned()]));
        assert_eq!(file, "devices.allow");
        assert_eq!(lines[0], "c *:* m");
        assert_eq!(lines[8], "c 136:* rwm");
        assert_eq!(lines.len(), 11);
    }

    #[test]
    fn rules_keep_the_order_of_the_spec_and_merge_with_the_defaults() {
        let rules = parse(
            r#"[{"allow":true,"type":"c","major":7,"minor":7,"access":"r"},
                {"allow":false,"access":"rwm"},
                {"allow":true,"type":"b","major":8,"access":"rm"},
                {"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}]"#,
        );
        let [_, (_, lines)] = rules.unwrap().v1();
        assert_eq!(lines[0], "b 8:* rm");
        assert_eq!(lines[1], "c 1:3 rwm");
        assert_eq!(lines.len(), 12);
    }

    #[test]
    fn privileged_container_is_one_write() {
        let rules = parse(r#"[{"allow":true,"access":"rwm"}]"#).unwrap();
        assert_eq!(rules.v1(), [("devices.allow", vec!["a".to_owned()]), ("devices.deny", Vec::new())]);
    }

    #[test]
    fn denial_after_allow_all_is_an_exception() {
        let rules = parse(
            r#"[{"allow":true,"access":"rwm"},
                {"allow":false,"type":"b","major":8,"minor":0,"access":"w"}]"#,
        );
        let expected = [("devices.allow", vec!["a".to_owned()]), ("devices.deny", vec!["b 8:0 w".to_owned()])];
        assert_eq!(rules.unwrap().v1(), expected);
    }

    #[test]
    fn exception_taken_back_leaves_no_trace() {
        let rules = parse(
            r#"[{"allow":true,"type":"b","major":8,"minor":1,"access":"rw"},
                {"allow":false,"type":"b","major":8,"minor":1,"access":"rwm"}]"#,
        );
        assert_eq!(rules.unwrap(), super::rules(None).unwrap());
    }

    #[test]
    fn hole_in_a_wildcard_is_refused() {
        let result = parse(
            r#"[{"allow":true,"type":"b","major":8,"access":"rw"},
                {"allow":false,"type":"b","major":8,"minor":1,"access":"w"}]"#,
        );
        assert!(matches!(result, Err(Error::DeviceHole { index: Some(1), .. })));
    }

    #[test]
    fn a_node_that_may_not_be_made_in_an_open_container_stays_so() {
        let rules = parse(
            r#"[{"allow":true,"access":"rwm"},
                {"allow":false,"type":"b","major":8,"minor":0,"access":"rwm"},
                {"allow":false,"type":"c","major":1,"minor":3,"access":"rwm"}]"#,
        );
        let [_, (file, lines)] = rules.unwrap().v1();
        assert_eq!((file, lines), ("devices.deny", vec!["b 8:0 rwm".to_owned()]));
    }

    #[test]
    fn hole_where_two_wildcards_meet_is_refused() {
        let result = parse(
            r#"[{"allow":true,"type":"b","major":8,"access":"rw"},
                {"allow":false,"type":"b","minor":1,"access":"w"}]"#,
        );
        assert!(matches!(result, Err(Error::DeviceHole { index: Some(1), .. })));
    }

    #[test]
    fn wider_denial_takes_back_the_narrower_exceptions_before_it() {
        let rules = parse(
            r#"[{"allow":true,"type":"b","major":8,"minor":1,"access":"rw"},
                {"allow":true,"type":"b","major":8,"minor":2,"access":"r"},
                {"allow":true,"type":"b","major":9,"minor":1,"access":"r"},
                {"allow":false,"type":"b","major":8,"access":"r"}]"#,
        );
        let [_, (_, lines)] = rules.unwrap().v1();
        assert_eq!(lines[..2], ["b 8:1 w", "b 9:1 r"]);
    }

    #[test]
    fn malformed_rules_are_refused() {
        for rule in [
            r#"{"allow":true,"type":"c","major":1,"minor":3}"#,
            r#"{"allow":true,"type":"c","major":1,"minor":3,"access":"rx"}"#,
            r#"{"allow":true,"type":"p","access":"r"}"#,
            r#"{"allow":true,"type":"c","major":-2,"access":"r"}"#,
            r#"{"allow":true,"type":"c","major":4294967296,"access":"r"}"#,
        ] {
            assert!(matches!(parse(&format!("[{rule}]")), Err(Error::DeviceRule { index: 0 })), "{rule}");
        }
    }
}
