//! The words of a mount's options: what the kernel gets is what the words say, one after another.

use runtime_core::plan::Error;
use runtime_core::step::{MountSource, MountStep};
use rustix::mount::MountAttrFlags as Attr;
use serde_json::json;

use crate::choices::Choices;
use crate::plan::with_mount;

/// Attributes that a word sets or clears.
const WORDS: [(&str, bool, u32); 10] = [
    ("ro", true, Attr::MOUNT_ATTR_RDONLY.bits()),
    ("rw", false, Attr::MOUNT_ATTR_RDONLY.bits()),
    ("nosuid", true, Attr::MOUNT_ATTR_NOSUID.bits()),
    ("suid", false, Attr::MOUNT_ATTR_NOSUID.bits()),
    ("nodev", true, Attr::MOUNT_ATTR_NODEV.bits()),
    ("dev", false, Attr::MOUNT_ATTR_NODEV.bits()),
    ("noexec", true, Attr::MOUNT_ATTR_NOEXEC.bits()),
    ("exec", false, Attr::MOUNT_ATTR_NOEXEC.bits()),
    ("nosymfollow", true, Attr::MOUNT_ATTR_NOSYMFOLLOW.bits()),
    ("symfollow", false, Attr::MOUNT_ATTR_NOSYMFOLLOW.bits()),
];

/// Words of which nothing is expected here.
const OTHERS: [&str; 29] = [
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "sync",
    "async",
    "dirsync",
    "mand",
    "nomand",
    "lazytime",
    "defaults",
    "silent",
    "loud",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
    "rnoatime",
    "rrelatime",
    "rstrictatime",
    "rnodiratime",
];

/// Words for the file system itself.
const DATA: [&str; 8] = ["size=1m", "mode=755,uid=1", "a=\"b,c\",d", "", ",", "=", "x=\"", "日本=語"];

/// Bytes are indices of words; what is left of them is one word more, of which nothing is expected but an answer.
pub fn mount_options(data: &[u8]) {
    let mut choices = Choices::new(data);
    let bind = choices.below(2) == 1;
    let mut words: Vec<String> = Vec::new();
    for _ in 0..choices.below(12) {
        words.push(match choices.below(8) {
            0..4 => choices.of(&WORDS).0.to_owned(),
            4 => format!("r{}", choices.of(&WORDS).0),
            5 if !bind => choices.of(&DATA).to_owned(),
            _ => choices.of(&OTHERS).to_owned(),
        });
    }
    let odd = String::from_utf8_lossy(choices.rest()).into_owned();
    match compile(bind, &words) {
        Ok(mount) => attributes(&mount, &words, bind),
        Err(error) => panic!("{words:?}: {error}"),
    }
    words.push(odd);
    let _ = compile(bind, &words);
}

fn compile(bind: bool, words: &[String]) -> Result<MountStep, Error> {
    let mut options = words.to_vec();
    options.extend(bind.then(|| "bind".to_owned()));
    let fstype = if bind { "none" } else { "tmpfs" };
    with_mount(json!({ "destination": "/mnt", "type": fstype, "source": "/src", "options": options }))
}

/// `words` one after another; an `r` before a word makes it one of the tree.
fn said(words: &[String], tree: bool) -> (u64, u64) {
    let (mut set, mut clear) = (0, 0);
    for word in words {
        let word = match (tree, word.strip_prefix('r')) {
            // Not a word of the tree: its own letter.
            (false, _) => word.as_str(),
            (true, Some(word)) if !matches!(word, "o" | "w") => word,
            (true, _) => continue,
        };
        let Some((_, sets, flag)) = WORDS.iter().find(|(name, ..)| *name == word) else { continue };
        let flag = u64::from(*flag);
        (set, clear) = if *sets { (set | flag, clear & !flag) } else { (set & !flag, clear | flag) };
    }
    (set, clear)
}

fn attributes(mount: &MountStep, words: &[String], bind: bool) {
    let known = WORDS.iter().fold(0, |all, (.., flag)| all | u64::from(*flag));
    let (set, clear) = said(words, false);
    match &mount.source {
        // A bind that asks for anything has exactly that; one that asks for nothing keeps what its source has.
        MountSource::Opened { .. } | MountSource::InRoot { .. } => {
            assert!(bind, "{mount:?}");
            assert_eq!(mount.attributes.set & known, set, "{words:?}: {mount:?}");
            let cleared = mount.attributes.clear & known;
            // Words of access times ask as well.
            assert!(cleared == known & !set || set | clear | cleared == 0, "{words:?}: {mount:?}");
        }
        // What is filled before it is made read-only is kept for later.
        MountSource::Filesystem { filesystem, .. } => {
            let later = if mount.keep.is_some() { u64::from(Attr::MOUNT_ATTR_RDONLY.bits()) } else { 0 };
            assert_eq!((filesystem.attributes | later) & known, set, "{words:?}: {mount:?}");
        }
    }
    let tree = (mount.recursive_attributes.set & known, mount.recursive_attributes.clear & known);
    assert_eq!(tree, said(words, true), "{words:?}: {mount:?}");
    assert!(mount.attributes.set & mount.attributes.clear & known == 0, "{mount:?}");
}
