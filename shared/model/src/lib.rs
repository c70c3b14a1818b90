//! Language models: tokens in, logits out.
