//! Tells Cargo that the migrations are part of this crate, although they lie outside its folder.

fn main() {
    println!("cargo::rerun-if-changed=../../migrations/sqlite");
}
