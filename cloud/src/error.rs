//! What can go wrong, and the one table that turns it into a gRPC status. A refusal is none of
//! this: it is expected, and travels as a message of the stream.

use std::io;

/// A fault of one call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request cannot be understood; nothing was changed.
    #[error("{reason}")]
    Malformed {
        /// What is wrong and what to send instead.
        reason: String,
    },
    /// The model failed in a step that served this call.
    #[error("the model failed in a step of this call; what arrived holds, send a new attempt")]
    ModelFault,
    /// The message is over the limit that Describe names.
    #[error("the request is over the message_bytes_max of Describe ({reason}); send fewer ids")]
    TooLarge {
        /// The sizes.
        reason: String,
    },
    /// The weights are not there yet.
    #[error("the model is loading; use another endpoint, or come back in a few seconds")]
    Loading,
    /// The engine is gone.
    #[error("the engine takes no calls now; use another endpoint, or come back later")]
    EngineAway,
    /// A full channel kept a session from being forgotten; calls are refused as `overloaded` then.
    #[error("the session is not forgotten yet, the engine is busy; ask again in a second")]
    EngineBusy,
}

impl CallError {
    /// A request that cannot be understood.
    pub const fn malformed(reason: String) -> Self {
        Self::Malformed { reason }
    }
}

impl From<CallError> for tonic::Status {
    fn from(error: CallError) -> Self {
        let text = error.to_string();
        match error {
            CallError::Malformed { .. } => Self::invalid_argument(text),
            CallError::ModelFault => Self::internal(text),
            CallError::TooLarge { .. } => Self::resource_exhausted(text),
            CallError::Loading | CallError::EngineAway | CallError::EngineBusy => {
                Self::unavailable(text)
            }
        }
    }
}

/// Why the service could not start, or stopped of itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting that does not fit the others or the model.
    #[error(transparent)]
    Settings(#[from] crate::config::SettingError),
    /// The model could not be loaded.
    #[error(transparent)]
    Model(#[from] relay_model::ModelError),
    /// The TLS files cannot be used.
    #[error(transparent)]
    Tls(#[from] relay_chassis::tls::TlsError),
    /// The address of the probes cannot be bound.
    #[error(transparent)]
    Listen(#[from] relay_chassis::listen::ListenError),
    /// The operating system refused something.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The model loads but does not decode.
    #[error("the model failed its first decode: {reason}; check the weights with another program")]
    WarmUp {
        /// What it said.
        reason: String,
    },
    /// The thread that owns the model ended.
    #[error("the engine ended unexpectedly; its log tells why, and a restart is safe")]
    EngineEnded,
}
