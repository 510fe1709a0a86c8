//! The built-in checkpoint and the demo's pictures are part of the program: a change of them is a change of it.

fn main() {
    println!("cargo:rerun-if-changed=../models/ember");
    println!("cargo:rerun-if-changed=../datasets");
}
