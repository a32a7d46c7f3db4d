//! Keys, and what a directory may hold.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use serde_json::Value;

use super::super::testing::{parse, profile};
use super::*;

/// A directory of this test's own, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-seccomp-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn cache(&self) -> PathBuf {
        self.0.join("berth/seccomp")
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.cache()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn small() -> LinuxSeccomp {
    parse(r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}"#)
}

/// A profile with every field that has a place in it.
fn full() -> Value {
    serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
        "listenerPath": "/run/agent", "listenerMetadata": "meta",
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["open"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2,
             "args": [{"index": 0, "value": 1, "valueTwo": 3, "op": "SCMP_CMP_EQ"},
                      {"index": 1, "value": 1, "op": "SCMP_CMP_NE"}]},
            {"names": ["openat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2, "args": []},
        ],
    })
}

/// The values that differ from `value` in one place.
fn mutations(value: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let with = |field| {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), field);
                    Value::Object(fields)
                };
                all.extend(mutations(field).into_iter().map(with));
                let mut without = fields.clone();
                without.remove(name);
                all.push(Value::Object(without));
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                for mutation in mutations(item) {
                    let mut items = items.clone();
                    items[at] = mutation;
                    all.push(Value::Array(items));
                }
                let (mut without, mut twice, mut swapped) = (items.clone(), items.clone(), items.clone());
                without.remove(at);
                twice.insert(at, item.clone());
                swapped.swap(at, 0);
                all.extend([without, twice, swapped].map(Value::Array));
            }
        }
        Value::Number(number) => all.extend([0u64, 7, number.as_u64().unwrap() << 32].map(Value::from)),
        Value::String(text) => {
            for other in ["SCMP_ACT_TRACE", "SCMP_ARCH_X32", "SCMP_CMP_LT", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"] {
                all.push(other.into());
            }
            all.extend([format!("{text}x"), text.chars().skip(1).collect(), String::new()].map(Value::from));
        }
        Value::Null | Value::Bool(_) => {}
    }
    all
}

#[test]
fn profiles_that_differ_anywhere_have_different_keys() {
    let once = mutations(&full());
    let twice = once.iter().flat_map(mutations);
    let parsed = |value| serde_json::from_value::<LinuxSeccomp>(value).ok();
    let profiles = once.iter().cloned().chain(twice).chain([full()]).filter_map(parsed);
    let mut keys: HashMap<Key, LinuxSeccomp> = HashMap::new();
    for profile in profiles {
        let other = keys.entry(key(&profile).unwrap()).or_insert_with(|| profile.clone());
        assert_eq!(*other, profile);
    }
    assert!(keys.len() > 2000, "only {} profiles", keys.len());
}

#[test]
fn names_that_move_between_rules_change_the_key() {
    let rules = |rules| parse(&format!(r#"{{"defaultAction": "SCMP_ACT_KILL", "syscalls": {rules}}}"#));
    let together = rules(r#"[{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}]"#);
    let apart =
        rules(r#"[{"names": ["read"], "action": "SCMP_ACT_ALLOW"}, {"names": ["write"], "action": "SCMP_ACT_ALLOW"}]"#);
    let joined = rules(r#"[{"names": ["readwrite"], "action": "SCMP_ACT_ALLOW"}]"#);
    assert_ne!(key(&together), key(&apart));
    assert_ne!(key(&together), key(&joined));
}

#[test]
fn a_process_compiles_a_profile_once() {
    let cache = Cache::default();
    let first = cache.compile(&small()).unwrap();
    assert!(Arc::ptr_eq(&first, &cache.compile(&small()).unwrap()));
    assert_eq!(*first, build(&small()).unwrap());
}

#[test]
fn a_process_keeps_what_it_used_last() {
    let cache = Cache::default();
    let profile = |errno| {
        parse(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": {errno}}}]}}"#
        ))
    };
    let first = cache.compile(&profile(1)).unwrap();
    let second = cache.compile(&profile(2)).unwrap();
    for errno in 3..=KEPT + 1 {
        cache.compile(&profile(1)).unwrap();
        cache.compile(&profile(errno)).unwrap();
    }
    assert!(Arc::ptr_eq(&first, &cache.compile(&profile(1)).unwrap()));
    assert!(!Arc::ptr_eq(&second, &cache.compile(&profile(2)).unwrap()));
    assert_eq!(cache.kept.lock().unwrap().len(), KEPT);
}

#[test]
fn a_refused_profile_is_refused_again() {
    let refused = parse(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#);
    let scratch = Scratch::new("refused");
    let cache = Cache::new(Some(scratch.cache()));
    assert!(cache.compile(&refused).is_err() && cache.compile(&refused).is_err());
    assert!(!scratch.cache().exists());
}

#[test]
fn another_process_reads_what_one_has_stored() {
    let scratch = Scratch::new("shared");
    let profile = profile("default.json");
    let stored = Cache::new(Some(scratch.cache())).compile(&profile).unwrap();
    let [file] = scratch.files().try_into().unwrap();
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(scratch.cache()).unwrap().mode() & 0o7777, 0o700);
    // A filter nobody would compile shows that it is read.
    let planted = Filter { program: stored.program[..5].to_vec(), flags: 3 };
    store::save(&scratch.cache(), &key(&profile).unwrap(), &planted).unwrap();
    assert_eq!(*Cache::new(Some(scratch.cache())).compile(&profile).unwrap(), planted);
    assert_eq!(compile(&profile, Some(&scratch.cache())).unwrap(), planted);
    assert_eq!(scratch.files(), [file]);
}

#[test]
fn a_file_that_cannot_be_trusted_is_replaced() {
    let scratch = Scratch::new("trust");
    let good = compile(&small(), Some(&scratch.cache())).unwrap();
    let [file] = scratch.files().try_into().unwrap();
    let whole = fs::read(&file).unwrap();
    let spoil: [(&str, &dyn Fn()); 6] = [
        ("half", &|| fs::write(&file, &whole[..whole.len() / 2]).unwrap()),
        ("empty", &|| fs::write(&file, []).unwrap()),
        ("too long", &|| fs::write(&file, vec![0; 1 << 20]).unwrap()),
        ("group-writable", &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o660)).unwrap()),
        ("a symlink", &|| {
            fs::rename(&file, scratch.0.join("elsewhere")).unwrap();
            symlink(scratch.0.join("elsewhere"), &file).unwrap();
        }),
        ("a fifo", &|| {
            fs::remove_file(&file).unwrap();
            rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        }),
    ];
    for (how, spoil) in spoil {
        spoil();
        assert_eq!(store::load(&scratch.cache(), &key(&small()).unwrap()), None, "{how}");
        assert_eq!(compile(&small(), Some(&scratch.cache())).unwrap(), good, "{how}");
        assert_eq!(fs::read(&file).unwrap(), whole, "{how}");
        assert_eq!(fs::symlink_metadata(&file).unwrap().mode(), 0o100_600, "{how}");
    }
}

#[test]
fn a_directory_that_others_write_to_is_left_alone() {
    let scratch = Scratch::new("open");
    let good = compile(&small(), Some(&scratch.cache())).unwrap();
    fs::set_permissions(scratch.cache(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::remove_file(&scratch.files()[0]).unwrap();
    assert_eq!(compile(&small(), Some(&scratch.cache())).unwrap(), good);
    assert!(scratch.files().is_empty());
}

#[test]
fn a_place_that_cannot_be_a_directory_costs_only_the_cache() {
    let scratch = Scratch::new("file");
    fs::write(scratch.0.join("berth"), "not a directory").unwrap();
    assert_eq!(compile(&small(), Some(&scratch.cache())).unwrap(), build(&small()).unwrap());
}

#[test]
fn a_directory_keeps_a_bounded_number_of_files() {
    let scratch = Scratch::new("bounded");
    let filter = Filter { program: Vec::new(), flags: 0 };
    for number in 0..200u8 {
        store::save(&scratch.cache(), &[number; 32], &filter).unwrap();
    }
    assert_eq!(scratch.files().len(), 128);
    assert!(scratch.cache().join("c7".repeat(32)).exists());
}
