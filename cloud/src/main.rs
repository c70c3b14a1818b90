//! The program: flags, settings, serve.

fn main() {}
