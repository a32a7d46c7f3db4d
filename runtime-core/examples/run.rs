//! Runs a bundle to its end: `run BUNDLE`.

use runtime_core::container::{Container, CreateRequest, Options, Runtime, Stdio};
use std::os::fd::AsFd;
use std::path::Path;

#[global_allocator]
static GUARD: runtime_core::sys::guard::Guard = runtime_core::sys::guard::Guard;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bundle = std::env::args().nth(1).ok_or("usage: run BUNDLE")?;
    let bundle = std::fs::canonicalize(Path::new(&bundle))?;
    let spec = runtime_core::spec::load(&bundle)?;
    let runtime = Runtime::new(None)?;
    let stdio = || -> std::io::Result<_> {
        Ok(Stdio::Files([
            std::io::stdin().as_fd().try_clone_to_owned()?,
            std::io::stdout().as_fd().try_clone_to_owned()?,
            std::io::stderr().as_fd().try_clone_to_owned()?,
        ]))
    };
    let options = Options::default();
    let t = std::time::Instant::now();
    let request =
        CreateRequest { id: "run", bundle: &bundle, spec: &spec, rootfs: &[], stdio: stdio()?, options: &options };
    let (container, child) = match Container::create(request, &runtime) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("create: {e}");
            std::process::exit(1)
        }
    };
    eprintln!("created {:?}", t.elapsed());
    if let Some(process) = std::env::args().nth(2) {
        container.start()?;
        let process: oci_spec::runtime::Process = serde_json::from_str(&process)?;
        let t = std::time::Instant::now();
        match container.exec(&process, stdio()?, &runtime) {
            Ok(exec) => {
                eprintln!("exec {:?}", t.elapsed());
                loop {
                    if let Some(e) = exec.reap(&runtime.children)? {
                        eprintln!("exec exit {}", e.status);
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
            Err(e) => eprintln!("exec: {e}"),
        }
        container.signal(9)?;
    } else {
        if let Err(e) = container.start() {
            eprintln!("start: {e}")
        }
        eprintln!("started {:?}", t.elapsed());
    }
    let exit = loop {
        if let Some(exit) = child.reap(&runtime.children)? {
            break exit;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    container.delete()?;
    eprintln!("exit {}", exit.status);
    Ok(())
}
