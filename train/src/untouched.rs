//! The small model of the tiny pair as pretraining left it: what the embedded one was before it saw a
//! command. Only the training program carries it.

use relay_model::EmbeddedFolder;

macro_rules! pretrained {
    ($file:literal) => {
        ($file, include_bytes!(concat!("../runs/pretrained/slm/", $file)))
    };
}

/// The small model before it learned to call.
pub static UNTOUCHED_SLM: EmbeddedFolder = EmbeddedFolder {
    name: "relay-tiny-slm-untouched",
    files: &[
        pretrained!("config.json"),
        pretrained!("generation_config.json"),
        pretrained!("model.safetensors"),
        pretrained!("tokenizer.json"),
        pretrained!("tokenizer_config.json"),
    ],
};
