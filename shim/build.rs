//! The linker's part of a small server.

fn main() {
    // A position-independent executable is relocated when it starts, and each page that this touches (200 kB of
    // tables) becomes the server's own, once per pod. The image at a fixed place stays shared; heap, stack and mappings
    // are still placed at random.
    for argument in ["-no-pie", "-static"] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
