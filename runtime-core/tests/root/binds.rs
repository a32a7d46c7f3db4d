//! Binds: what a container gets of what is there already.

use std::fs;
use std::path::PathBuf;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use serde_json::{Value, json};

use super::bundle::{Bundle, scratch};
use super::mounts::{mount_of, volume};
use super::{Stop, Test};

pub const TESTS: &[Test] = &[
    ("bind_has_exactly_its_options", bind_options),
    ("bind_with_any_option_keeps_no_flag_of_its_source", bind_clears),
    ("bind_in_a_user_namespace_gets_no_more_than_its_source_has", bind_locked),
    ("bind_of_what_an_earlier_mount_made_has_it", bind_earlier),
    ("bind_from_the_root_never_leaves_it", bind_inside),
    ("bind_of_a_file_makes_its_target", bind_file),
    ("bind_takes_one_mount_and_rbind_the_tree", recursive),
    ("rro_makes_the_tree_readonly_and_ro_the_mount", recursive_readonly),
];

fn bind_options() -> Result<(), Stop> {
    let script = "cat /proc/self/mounts; (: >/ro/x) 2>&1; : >/plain/file; /strict/true; echo $?";
    let mut bundle = Bundle::new().sh(script);
    let all = ["rbind", "ro", "nosuid", "nodev", "noexec", "noatime"];
    for (path, options) in [("/plain", &["bind"][..]), ("/ro", &["bind", "ro"]), ("/strict", &all)] {
        let mount = volume(&bundle, path, options);
        bundle.mount(mount);
    }
    fs::copy("/bin/busybox", bundle.dir.join("volume/true"))?;
    let said = bundle.says()?;
    assert!(mount_of(&said, "/plain").starts_with("tmpfs rw,relatime"), "{said}");
    assert!(mount_of(&said, "/ro").starts_with("tmpfs ro,relatime"), "{said}");
    assert!(mount_of(&said, "/strict").starts_with("tmpfs ro,nosuid,nodev,noexec,noatime"), "{said}");
    assert!(said.ends_with("sh: can't create /ro/x: Read-only file system\n126"), "{said}");
    assert!(bundle.dir.join("volume/file").exists());
    Ok(())
}

/// A volume that is a mount of its own with these flags.
fn flagged(bundle: &Bundle, flags: MountFlags) -> PathBuf {
    let source = bundle.dir.join("flagged");
    if !source.exists() {
        fs::create_dir(&source).unwrap();
        mount("tmpfs", &source, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::set_permissions(&source, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    mount_remount(&source, MountFlags::BIND | flags, "").unwrap();
    source
}

/// What a bind of a source with these flags looks like inside, by these options.
fn bound(bundle: Bundle, flags: MountFlags, options: &[&str]) -> Result<String, String> {
    let source = flagged(&bundle, flags);
    let options = [&["bind"], options].concat();
    let bind = json!({"destination": "/bound", "type": "bind", "source": source, "options": options});
    let bundle = bundle.with_mount(bind).sh("cat /proc/self/mounts");
    let said = bundle.says();
    unmount(&source, UnmountFlags::DETACH).unwrap();
    said.map(|mounts| mount_of(&mounts, "/bound"))
}

const HARD: MountFlags =
    MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOEXEC);

fn bind_clears() -> Result<(), Stop> {
    let seen = |flags, options: &[&str]| bound(Bundle::new(), flags, options);
    let hard = HARD | MountFlags::NOATIME;
    assert_eq!(seen(hard, &[])?, "tmpfs ro,nosuid,nodev,noexec,noatime");
    assert_eq!(seen(hard, &["rprivate"])?, "tmpfs ro,nosuid,nodev,noexec,noatime");
    for clearing in ["rw", "dev", "suid", "exec", "symfollow", "atime", "norelatime"] {
        assert_eq!(seen(hard, &[clearing])?, "tmpfs rw,noatime", "{clearing}");
    }
    assert_eq!(seen(hard, &["ro"])?, "tmpfs ro,noatime");
    assert_eq!(seen(hard, &["remount", "exec"])?, "tmpfs ro,nosuid,nodev,noatime");
    assert_eq!(seen(hard, &["relatime"])?, "tmpfs rw,relatime");
    assert_eq!(seen(hard, &["strictatime"])?, "tmpfs rw");
    assert_eq!(seen(hard, &["nodiratime", "norelatime"])?, "tmpfs rw,nodiratime,relatime");
    Ok(())
}

fn bind_locked() -> Result<(), Stop> {
    let seen = |flags, options: &[&str]| bound(super::namespaces::with_user_namespace(Bundle::new()), flags, options);
    let hard = HARD | MountFlags::NOATIME;
    let kept = "tmpfs ro,nosuid,nodev,noexec,noatime";
    for harmless in ["rprivate", "nodev", "symfollow", "ro", "noatime", "atime", "norelatime"] {
        assert_eq!(seen(hard, &[harmless])?, kept, "{harmless}");
    }
    assert_eq!(seen(MountFlags::NOSUID, &["ro", "exec"])?, "tmpfs ro,nosuid,relatime");
    for more in ["rw", "suid", "dev", "exec", "relatime", "strictatime", "nodiratime"] {
        let refusal = seen(hard, &[more]).unwrap_err();
        assert!(refusal.contains("/bound") && refusal.ends_with("operation not permitted"), "{more}: {refusal}");
    }
    Ok(())
}

/// A tree of mounts inside, of which parts are bound again, by paths of the host as by those of the container.
fn bind_earlier() -> Result<(), Stop> {
    let plain: fn(Bundle) -> Bundle = |bundle| bundle;
    for change in [plain, super::namespaces::with_user_namespace] {
        for mapped in [false, true] {
            let mut bundle = change(Bundle::new()).sh("cat /final/x/y/z/z/x/y/z/x/file");
            let source = bundle.dir.join("source");
            for (part, below) in [("a", "x"), ("b", "y"), ("c", "z")] {
                fs::create_dir_all(source.join(part).join(below))?;
                fs::write(source.join(part).join(below).join("file"), format!("{part}/{below}"))?;
            }
            let image = bundle.image("/").display().to_string();
            let image = image.trim_end_matches('/');
            let mut bind = |from: String, to: &str, options: &[&str]| {
                let mut mount = json!({"source": from, "destination": to, "type": "bind", "options": options});
                if options.contains(&"idmap") {
                    for maps in ["uidMappings", "gidMappings"] {
                        mount[maps] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
                    }
                }
                bundle.mount(mount);
            };
            for (part, to) in [("a", "/mnt"), ("b", "/mnt/x"), ("c", "/mnt/x/y"), ("a", "/mnt/x/y/z")] {
                bind(source.join(part).display().to_string(), to, &["bind", "rprivate"]);
            }
            let again = if mapped { &["rbind", "rprivate", "idmap"][..] } else { &["rbind", "rprivate"] };
            bind(format!("{image}/mnt/x"), &format!("{image}/mnt/x/y/z/x"), again);
            bind(format!("{image}/mnt/x/y"), "/mnt/x/y/z", again);
            bind(format!("{image}/mnt"), "/final", again);
            assert_eq!(bundle.says().map_err(|error| format!("mapped {mapped}: {error}"))?, "a/x");
        }
    }
    Ok(())
}

/// A link of the image is the container's, wherever it seems to point.
fn bind_inside() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat /bound/name");
    fs::create_dir_all(bundle.image("/tmp/secret"))?;
    fs::write(bundle.image("/tmp/secret/name"), "inside")?;
    let outside = bundle.dir.join("secret");
    fs::create_dir(&outside)?;
    fs::write(outside.join("name"), "outside")?;
    std::os::unix::fs::symlink("../../../../../../../tmp/secret", bundle.image("/link"))?;
    std::os::unix::fs::symlink(&outside, bundle.image("/away"))?;
    let bind = |from: &str| json!({"source": bundle.image(from), "destination": "/bound", "options": ["bind"]});
    let (link, away) = (bind("/link"), bind("/away"));
    let said = |mount| {
        Bundle { id: bundle.id.clone(), dir: bundle.dir.clone(), ..Bundle::new().sh("cat /bound/name") }
            .with_mount(mount)
            .says()
    };
    assert_eq!(said(link)?, "inside");
    let refusal = said(away).unwrap_err();
    assert!(refusal.starts_with("mount /away of the container on /bound: no such file"), "{refusal}");
    Ok(())
}

fn bind_file() -> Result<(), Stop> {
    let bundle = Bundle::new().sh("cat /made/by/the/way /etc/covered; echo back >/made/by/the/way");
    let source = bundle.dir.join("file");
    fs::write(&source, "content\n")?;
    fs::write(bundle.image("/etc/covered"), "below\n")?;
    let bind = |to: &str| json!({"destination": to, "type": "bind", "source": source, "options": ["bind"]});
    let bundle = bundle.with_mount(bind("/made/by/the/way")).with_mount(bind("/etc/covered"));
    assert_eq!(bundle.says()?, "content\ncontent");
    assert_eq!(fs::read_to_string(&source)?, "back\n");
    assert_eq!(fs::read_to_string(bundle.image("/etc/covered"))?, "below\n");
    Ok(())
}

/// A tree of two mounts on the host, gone at the end.
pub struct Tree(pub PathBuf);

impl Tree {
    pub fn new(name: &str) -> Tree {
        let path = scratch().join(name);
        fs::create_dir(&path).unwrap();
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), None).unwrap();
        fs::create_dir(path.join("sub")).unwrap();
        mount("tmpfs", path.join("sub"), "tmpfs", MountFlags::empty(), None).unwrap();
        fs::write(path.join("outer"), "").unwrap();
        fs::write(path.join("sub/inner"), "").unwrap();
        Tree(path)
    }

    pub fn bind(&self, destination: &str, options: &[&str]) -> Value {
        json!({"destination": destination, "type": "bind", "source": self.0, "options": options})
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
        fs::remove_dir(&self.0).unwrap();
    }
}

fn recursive() -> Result<(), Stop> {
    let tree = Tree::new("recursive");
    let bundle = Bundle::new().with_mount(tree.bind("/one", &["bind"])).with_mount(tree.bind("/all", &["rbind"]));
    assert_eq!(bundle.sh("ls /one/sub; echo; ls /all/sub").says()?, "\ninner");
    Ok(())
}

fn recursive_readonly() -> Result<(), Stop> {
    let tree = Tree::new("readonly");
    let bundle = Bundle::new().with_mount(tree.bind("/ro", &["rbind", "ro"]));
    let bundle = bundle.with_mount(tree.bind("/rro", &["rbind", "rro", "rnosuid"]));
    let bundle = bundle.with_mount(tree.bind("/back", &["rbind", "rro", "rw", "rrw"]));
    let script = "for file in /ro/x /ro/sub/x /rro/x /rro/sub/x /back/x /back/sub/x; do \
         (: >$file) 2>/dev/null && echo $file; done; cat /proc/self/mounts";
    let said = bundle.sh(script).says()?;
    assert!(said.starts_with("/ro/sub/x\n/back/x\n/back/sub/x\n"), "{said}");
    assert!(mount_of(&said, "/rro/sub").starts_with("tmpfs ro,nosuid,"), "{said}");
    Ok(())
}
