//! The call command, `<call>n</call>`: its grammar, scanner and writer. Its only definition.

/// How a command opens.
pub const OPEN: &str = "<call>";
/// How it closes.
pub const CLOSE: &str = "</call>";
