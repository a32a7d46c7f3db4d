//! Plugins that are scripts, and an engine that runs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use netns::cni::cache::Attachment;
use netns::cni::conflist::NetworkList;
use netns::cni::engine::Engine;
use serde_json::{Map, Value, json};

pub struct Scene {
    pub directory: PathBuf,
    pub engine: Engine,
}

impl Scene {
    pub fn new(test: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("berth-engine-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("bin")).unwrap();
        let engine = Engine {
            bin_dirs: vec![directory.join("no"), directory.join("bin")],
            cache_dir: directory.join("cache"),
            native: false,
            timeout: Duration::from_secs(20),
            ..Engine::default()
        };
        Self { directory, engine }
    }

    /// A plugin that notes command and configuration, then does what the script says.
    pub fn plugin(&self, name: &str, script: &str) {
        let log = self.directory.display();
        let text = format!(
            "#!/bin/sh\nn=$(ls {log}/log 2>/dev/null | wc -l)\nmkdir -p {log}/log\n\
             f={log}/log/$(printf %03d $n)-{name}-$CNI_COMMAND\ncat >$f\nenv | grep ^CNI_ | sort >{log}/env-{name}\n{script}\n"
        );
        let path = self.directory.join("bin").join(name);
        // Written by another process: this one has threads that fork, and a file that a fork holds open is busy.
        let draft = self.directory.join("draft");
        fs::write(&draft, text).unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(std::process::Command::new("cp").arg("-p").arg(draft).arg(path).status().unwrap().success());
    }

    /// Which plugins were called how, in order.
    pub fn calls(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.directory.join("log"))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.into_iter().map(|name| name[4..].to_owned()).collect()
    }

    /// What the nth call read.
    pub fn input(&self, nth: usize) -> Value {
        let mut paths: Vec<_> =
            fs::read_dir(self.directory.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        serde_json::from_slice(&fs::read(&paths[nth]).unwrap()).unwrap()
    }

    pub fn cached(&self) -> usize {
        self.engine.attachments().len()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub fn list(version: &str, plugins: Value) -> NetworkList {
    let list = json!({ "name": "net", "cniVersion": version, "plugins": plugins });
    NetworkList::from_bytes(list.to_string().as_bytes()).unwrap()
}

pub fn attachment() -> Attachment {
    Attachment {
        container_id: "pod".to_owned(),
        netns: "/run/netns/pod".to_owned(),
        if_name: "eth0".to_owned(),
        args: vec![("IgnoreUnknown".to_owned(), "1".to_owned()), ("K".to_owned(), "v".to_owned())],
        capability_args: Map::from_iter([("ports".to_owned(), json!([1])), ("other".to_owned(), json!(2))]),
    }
}

/// What a plugin that is well says.
pub const ANSWER: &str = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]}'"#;
