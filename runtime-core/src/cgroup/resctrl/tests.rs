//! On a directory that looks like a resctrl whose kernel does nothing: it makes no files in a group, refuses nothing, and
//! does not empty a group that is removed. Those are the kernel's to do, and it is not tried here.

use std::fs;
use std::path::PathBuf;

use super::*;

struct Fake(PathBuf);

impl Fake {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-resctrl-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("info/L3")).unwrap();
        fs::write(path.join("info/last_cmd_status"), "ok\n").unwrap();
        Self(path)
    }

    fn group(&self, rdt: &str) -> Result<Group, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.0, flags, Mode::empty()).unwrap();
        Resctrl(Dir::new(root)).group(&serde_json::from_str(rdt).unwrap(), "box")
    }

    /// The kernel's part of making a group.
    fn populate(&self, group: &str) {
        fs::create_dir_all(self.0.join(group).join("mon_groups")).unwrap();
        for file in ["tasks", "schemata"] {
            fs::write(self.0.join(group).join(file), "").unwrap();
        }
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn left(path: &str) -> Option<Left> {
    Some(Left { path: path.to_owned() })
}

#[test]
fn without_a_clos_a_group_of_ones_own_is_made_and_goes() {
    let fake = Fake::new("own");
    let group = fake.group("{}").unwrap();
    assert_eq!(group.left(), left("box"));
    group.make().unwrap();
    assert!(fake.0.join("box").is_dir());
    group.resctrl.remove(&group.left().unwrap()).unwrap();
    assert!(!fake.0.join("box").exists());
    // Again: it is gone already.
    group.resctrl.remove(&group.left().unwrap()).unwrap();
}

#[test]
fn group_of_that_name_that_was_there_before_stays() {
    let fake = Fake::new("found");
    fake.populate("box");
    assert_eq!(fake.group("{}").unwrap().left(), None);
    assert_eq!(fake.group(r#"{"enableMonitoring":true}"#).unwrap().left(), left("box/mon_groups/box"));
}

#[test]
fn schemata_of_more_than_one_line_are_refused() {
    let error = Fake::new("lines").group(r#"{"schemata":["L3:0=f","L3:1=f\nMB:0=9"]}"#).unwrap_err();
    assert_eq!(error.to_string(), r#"linux.intelRdt.schemata "L3:1=f\nMB:0=9" is more than one line"#);
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn schemata_are_written_in_one_go_and_tasks_are_opened() {
    let fake = Fake::new("schemata");
    fake.populate("gold");
    let rdt = r#"{"closID":"gold","l3CacheSchema":"L3:0=f","schemata":["L2:0=3",""],"enableMonitoring":true}"#;
    let group = fake.group(rdt).unwrap();
    assert_eq!(group.left(), left("gold/mon_groups/box"));
    group.make().unwrap();
    assert_eq!(fake.read("gold/schemata"), "L3:0=f\nL2:0=3\n");
    fake.populate("gold/mon_groups/box");
    for tasks in group.tasks().unwrap() {
        rustix::io::write(tasks, b"0").unwrap();
    }
    assert_eq!((fake.read("gold/tasks"), fake.read("gold/mon_groups/box/tasks")), ("0".to_owned(), "0".to_owned()));
}

#[test]
fn the_root_is_a_group_as_well() {
    let fake = Fake::new("root");
    fs::write(fake.0.join("tasks"), "").unwrap();
    let group = fake.group(r#"{"closID":"/"}"#).unwrap();
    group.make().unwrap();
    assert_eq!((group.tasks().unwrap().len(), group.left()), (1, None));
}

#[test]
fn what_this_host_cannot_do_is_refused_and_nothing_is_made() {
    let fake = Fake::new("refused");
    for (rdt, words) in [
        (r#"{"closID":"gold"}"#, "linux.intelRdt.closID \"gold\": there is no such group"),
        (r#"{"closID":".."}"#, "linux.intelRdt.closID \"..\" is not the name"),
        (r#"{"closID":"a/b","schemata":["L3:0=f"]}"#, "linux.intelRdt.closID \"a/b\" is not the name"),
        (r#"{"memBwSchema":"MB:0=20"}"#, "linux.intelRdt.memBwSchema is not supported"),
    ] {
        let error = fake.group(rdt).unwrap_err().to_string();
        assert!(error.contains(words), "{rdt}: {error}");
    }
    assert_eq!(fs::read_dir(&fake.0).unwrap().count(), 1);
}

#[test]
fn the_kernels_own_words_are_told() {
    let fake = Fake::new("words");
    fs::write(fake.0.join("info/last_cmd_status"), "mask f is not contiguous\n").unwrap();
    let group = fake.group(r#"{"schemata":["L3:0=5"]}"#).unwrap();
    // No kernel has made its schemata.
    let error = group.make().unwrap_err().to_string();
    assert!(error.contains("write the schemata of box") && error.contains("(mask f is not contiguous)"), "{error}");
}
