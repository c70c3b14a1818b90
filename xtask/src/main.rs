//! One door for chores.

fn main() {}
