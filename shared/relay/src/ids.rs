//! Names of things that cross the wire: newtypes with checked constructors. Token ids stay plain
//! `u32`, since every tokenizer and model of the field speaks them.

use std::fmt;

/// One conversation, scoped by the tenant: 128 random bits made by the edge.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; 16]);

/// Which vocabulary a model speaks: the fingerprint PROTOCOL.md defines under *Describe*.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

/// The hash of a prefix of the cloud view: see [`crate::prefix`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefixHash([u8; 16]);

/// Which weights answer: a name for people and a hash for machines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelId {
    name: String,
    hash: [u8; 8],
}

/// The number of one attempt: it rises strictly within a session. Zero means none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attempt(u64);

/// Longest model name in bytes; a longer one is cut at a character border.
pub const MODEL_NAME_BYTES_MAX: usize = 128;

macro_rules! sixteen_bytes {
    ($name:ident) => {
        impl $name {
            /// Wraps the sixteen bytes.
            pub const fn new(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The sixteen bytes.
            pub const fn bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

sixteen_bytes!(Fingerprint);
sixteen_bytes!(PrefixHash);

impl SessionId {
    /// Wraps the sixteen random bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The sixteen bytes.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Knowing a session's id is half of reaching it, so a log shows only its first two bytes.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

impl ModelId {
    /// A model by name and weight hash; a name over [`MODEL_NAME_BYTES_MAX`] is cut.
    pub fn new(name: impl Into<String>, hash: [u8; 8]) -> Self {
        let mut name = name.into();
        name.truncate(name.floor_char_boundary(MODEL_NAME_BYTES_MAX));
        Self { name, hash }
    }

    /// The name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Eight bytes of a hash over tensor names, types, shapes and a sample of their bytes.
    pub const fn hash(&self) -> &[u8; 8] {
        &self.hash
    }
}

impl Attempt {
    /// An attempt by its number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The attempt after this one. The number never wraps: at the top it stays there, and the
    /// cloud then refuses it as stale.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}
