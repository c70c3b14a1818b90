//! Binding a socket, with errors that say which setting to change. Serves nothing itself.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// An address that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (setting `{key}`): {source}; {}", remedy(source, *address))]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// The setting that named it.
    pub key: String,
    /// What the system says.
    pub source: io::Error,
}

/// Binds `address`, which the setting `key` named. Port 0 takes any free port; ask the listener for
/// its `local_addr`.
///
/// # Errors
/// [`ListenError`], which names address, setting and remedy.
pub async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError {
        address,
        key: key.to_owned(),
        source,
    })
}

fn remedy(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has this port: stop it, or choose another port".to_owned()
        }
        io::ErrorKind::PermissionDenied => format!(
            "port {} needs rights this process does not have: choose one of 1024 or above",
            address.port()
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "this machine has no address {}: use one it has, or 0.0.0.0 for all of them",
            address.ip()
        ),
        _ => "choose another address".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_setting() {
        let first = bind(([127, 0, 0, 1], 0).into(), "listen").await.unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, "probes.listen").await.unwrap_err();
        let message = error.to_string();
        for part in [&address.to_string(), "`probes.listen`", "another process has this port"] {
            assert!(message.contains(part), "no `{part}` in: {message}");
        }
    }

    #[tokio::test]
    async fn a_foreign_address_is_explained() {
        // 192.0.2.0/24 is kept for documentation: no machine has it.
        let error = bind(([192, 0, 2, 1], 0).into(), "listen").await.unwrap_err();
        assert!(error.to_string().contains("no address 192.0.2.1"), "{error}");
    }

    #[test]
    fn a_privileged_port_is_explained() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let text = remedy(&denied, ([127, 0, 0, 1], 443).into());
        assert!(text.contains("port 443") && text.contains("1024"), "{text}");
    }
}
