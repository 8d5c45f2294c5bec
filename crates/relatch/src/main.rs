//! The program.
mod launch;
fn main() {}
