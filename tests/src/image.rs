//! The image that the containers run: busybox, its applets, and a few accounts; and a second name of the same files
//! whose command just waits, for pods' sandboxes. Built once per process, as an OCI layout in a tar that
//! `ctr image import` takes.

use crate::command::{self, DEADLINE};
use crate::containerd::{IMAGE, unique_name};
use crate::version;
use anyhow::{Context, Result, anyhow};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tar::{Builder, EntryType, Header};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nguest:x:1000:1000:guest:/home/guest:/bin/sh\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\nguest:x:1000:\nextra:x:2000:guest\n";

/// The sandboxes' image in every daemon.
pub const PAUSE: &str = "example.test/pause:latest";

/// The image as a tar file; made on the first call, and kept as long as the process lives.
pub fn path() -> Result<&'static Path> {
    static IMAGE_FILE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = IMAGE_FILE.get_or_init(|| {
        let file = std::env::temp_dir().join(format!("{}.tar", unique_name()));
        build().and_then(|tar| Ok(fs::write(&file, tar)?)).map(|()| file).map_err(|error| format!("{error:#}"))
    });
    made.as_deref().map_err(|error| anyhow!("{error}")).context("make the image")
}

/// Removes the file again.
pub fn remove() {
    if let Ok(path) = path() {
        let _ = fs::remove_file(path);
    }
}

/// Unpacks the image's only layer into a directory.
pub fn unpack(directory: &Path) -> Result<()> {
    let layer = layer()?;
    let mut archive = tar::Archive::new(layer.as_slice());
    archive.set_preserve_permissions(true);
    archive.unpack(directory).with_context(|| format!("unpack the image into {}", directory.display()))
}

/// The images as the bytes of a tar with an OCI layout.
pub fn build() -> Result<Vec<u8>> {
    let layer = layer()?;
    let mut tar = Builder::new(Vec::new());
    add_file(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add_blob(&mut tar, &layer)?;
    let mut listed = Vec::new();
    for (name, command) in [(IMAGE, &["/bin/sh"][..]), (PAUSE, &["/bin/sleep", "2147483647"])] {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Env": ["PATH=/bin"], "Cmd": command, "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        })
        .to_string()
        .into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        })
        .to_string()
        .into_bytes();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        entry["annotations"] =
            json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest" });
        listed.push(entry);
        add_blob(&mut tar, &config)?;
        add_blob(&mut tar, &manifest)?;
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": listed,
    });
    add_file(&mut tar, "index.json", 0o644, index.to_string().as_bytes())?;
    Ok(tar.into_inner()?)
}

fn add_blob(tar: &mut Builder<Vec<u8>>, blob: &[u8]) -> Result<()> {
    add_file(tar, &digest(blob).replacen("sha256:", "blobs/sha256/", 1), 0o644, blob)
}

/// Only what a container needs to be asked questions from inside.
fn layer() -> Result<Vec<u8>> {
    let program = fs::read(version::busybox()).context("read busybox: run tests/setup")?;
    let applets = command::run(Command::new(version::busybox()).arg("--list"), DEADLINE)?.success()?.stdout;
    let mut tar = Builder::new(Vec::new());
    for (directory, mode) in
        [("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("home/guest", 0o755), ("proc", 0o555)]
    {
        add_directory(&mut tar, directory, mode)?;
    }
    for (directory, mode) in
        [("root", 0o700), ("run", 0o755), ("srv", 0o755), ("sys", 0o555), ("tmp", 0o1777), ("var", 0o755)]
    {
        add_directory(&mut tar, directory, mode)?;
    }
    add_file(&mut tar, "bin/busybox", 0o755, &program)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        add_link(&mut tar, &format!("bin/{applet}"), "busybox")?;
    }
    add_file(&mut tar, "etc/passwd", 0o644, PASSWD.as_bytes())?;
    add_file(&mut tar, "etc/group", 0o644, GROUP.as_bytes())?;
    // Not executable, a directory in its place, no interpreter, a bad one, and the shim itself as interpreter.
    add_file(&mut tar, "srv/plain", 0o644, b"#!/bin/sh\necho never\n")?;
    add_file(&mut tar, "srv/exit-6", 0o755, b"#!/bin/sh\necho started\nexit 6\n")?;
    add_file(&mut tar, "srv/garbage", 0o755, b"\x01\x02\x03 neither script nor program\n")?;
    add_file(&mut tar, "srv/bad-interpreter", 0o755, b"#!/does/not/exist\n")?;
    add_file(&mut tar, "srv/self-interpreter", 0o755, b"#!/proc/self/exe\n")?;
    add_link(&mut tar, "srv/dangling", "/does/not/exist")?;
    Ok(tar.into_inner()?)
}

fn add_file(tar: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    Ok(tar.append_data(&mut header, path, content)?)
}

fn add_directory(tar: &mut Builder<Vec<u8>>, path: &str, mode: u32) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_size(0);
    header.set_mode(mode);
    Ok(tar.append_data(&mut header, path, std::io::empty())?)
}

fn add_link(tar: &mut Builder<Vec<u8>>, path: &str, target: &str) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    Ok(tar.append_link(&mut header, path, target)?)
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

/// The machine's architecture as OCI names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
