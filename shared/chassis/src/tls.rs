//! Mutual TLS from PEM files: rustls with the ring provider, TLS 1.2 and later, HTTP/2. Both sides
//! show a certificate and both check it against one authority. Knows no service and opens no
//! socket.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, InconsistentKeys, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Largest PEM file in bytes; a bundle of a hundred authorities is a fifth of it.
pub const PEM_FILE_BYTES_MAX: u64 = 1 << 20;

const ALPN_HTTP2: &[u8] = b"h2";

/// The three PEM files of one side of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate shown to the peer, with its chain after it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that the peer's certificate must come from.
    pub authority: PathBuf,
}

/// Which of the three files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsRole {
    /// The certificate shown to the peer.
    Certificate,
    /// Its private key.
    Key,
    /// The authorities of the peer.
    Authority,
}

impl fmt::Display for TlsRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "certificate",
            Self::Key => "private key",
            Self::Authority => "authority certificate",
        })
    }
}

/// Why TLS cannot be set up from the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error(
        "the {role} {} cannot be read: {source}; check the path and who may read it",
        path.display()
    )]
    Unreadable {
        /// What the file is for.
        role: TlsRole,
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file holds no PEM block of the right kind.
    #[error(
        "the {role} {} holds no PEM {role}: it must have a block that begins with `-----BEGIN`",
        path.display()
    )]
    NotPem {
        /// What the file is for.
        role: TlsRole,
        /// Its path.
        path: PathBuf,
    },
    /// The PEM block does not hold what it says.
    #[error("the {role} {} is broken: {reason}; make or copy it anew", path.display())]
    Broken {
        /// What the file is for.
        role: TlsRole,
        /// Its path.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// Key and certificate are not of one pair.
    #[error(
        "the private key {} does not belong to the certificate {}: use the two files that were \
         issued together", key.display(), certificate.display()
    )]
    KeyMismatch {
        /// The key's path.
        key: PathBuf,
        /// The certificate's path.
        certificate: PathBuf,
    },
    /// The certificate's time is over.
    #[error("the {role} {} expired on {date}: issue a new one", path.display())]
    Expired {
        /// What the file is for.
        role: TlsRole,
        /// Its path.
        path: PathBuf,
        /// The last moment it was valid.
        date: OffsetDateTime,
    },
    /// The certificate's time has not come.
    #[error("the {role} {} is not valid before {date}: check this machine's clock", path.display())]
    NotYetValid {
        /// What the file is for.
        role: TlsRole,
        /// Its path.
        path: PathBuf,
        /// The first moment it is valid.
        date: OffsetDateTime,
    },
    /// The certificate was issued for the other side of a connection.
    #[error(
        "the certificate {} was not issued for {purpose}: issue one with `relay-cloud pki issue \
         NAME {flag}`",
        path.display(),
        flag = purpose.flag()
    )]
    OtherPurpose {
        /// Its path.
        path: PathBuf,
        /// What it would have to be issued for.
        purpose: Purpose,
    },
}

/// What a certificate must have been issued for: its extended key usage (RFC 5280, 4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To listen.
    Server,
    /// To connect.
    Client,
}

impl Purpose {
    /// The flag that asks for it.
    fn flag(self) -> &'static str {
        match self {
            Self::Server => "--server",
            Self::Client => "--client",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "a server",
            Self::Client => "a client",
        })
    }
}

/// TLS for the side that listens: a client certificate of the authority is required.
///
/// # Errors
/// [`TlsError`], which names the file.
pub fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    TlsMaterial::read(files)?.checked_server_config()
}

/// TLS for the side that connects: shows its certificate and checks the server's.
///
/// # Errors
/// [`TlsError`], which names the file.
pub fn client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    TlsMaterial::read(files)?.checked_client_config()
}

/// When the certificate that is shown to the peer expires.
///
/// # Errors
/// [`TlsError`] if it cannot be read.
pub fn certificate_expiry(files: &TlsFiles) -> Result<SystemTime, TlsError> {
    TlsMaterial::read(files)?.expiry()
}

/// What the three files hold, read but not yet judged by date.
#[derive(PartialEq)]
pub(crate) struct TlsMaterial {
    files: TlsFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Vec<CertificateDer<'static>>,
}

impl TlsMaterial {
    pub(crate) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            chain: read_certificates(TlsRole::Certificate, &files.certificate)?,
            key: read_key(&files.key)?,
            authorities: read_certificates(TlsRole::Authority, &files.authority)?,
            files: files.clone(),
        })
    }

    /// Refuses an own certificate or a lone authority that is not valid at `now`.
    fn check_dates(&self, now: SystemTime) -> Result<(), TlsError> {
        let now = OffsetDateTime::from(now);
        check_dates(TlsRole::Certificate, &self.files.certificate, &self.chain[0], now)?;
        match self.authorities.as_slice() {
            [authority] => check_dates(TlsRole::Authority, &self.files.authority, authority, now),
            // In a bundle an old authority may stand beside its successor.
            _ => Ok(()),
        }
    }

    /// Refuses an own certificate that every peer would refuse, and with an error that names less.
    fn check_purpose(&self, purpose: Purpose) -> Result<(), TlsError> {
        let path = &self.files.certificate;
        let broken = |error: &dyn fmt::Display| broken(TlsRole::Certificate, path, error);
        let (_, parsed) = X509Certificate::from_der(&self.chain[0]).map_err(|e| broken(&e))?;
        let usage = parsed.extended_key_usage().map_err(|e| broken(&e))?;
        let fits = usage.is_none_or(|usage| {
            let named = match purpose {
                Purpose::Server => usage.value.server_auth,
                Purpose::Client => usage.value.client_auth,
            };
            named || usage.value.any
        });
        if fits { Ok(()) } else { Err(TlsError::OtherPurpose { path: path.clone(), purpose }) }
    }

    pub(crate) fn checked_server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        self.check_dates(SystemTime::now())?;
        self.check_purpose(Purpose::Server)?;
        self.server_config()
    }

    pub(crate) fn checked_client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        self.check_dates(SystemTime::now())?;
        self.check_purpose(Purpose::Client)?;
        self.client_config()
    }

    pub(crate) fn expiry(&self) -> Result<SystemTime, TlsError> {
        let path = &self.files.certificate;
        let validity = Validity::of(TlsRole::Certificate, path, &self.chain[0])?;
        Ok(validity.until.into())
    }

    fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider.clone())
            .build()
            .map_err(|error| self.broken(TlsRole::Authority, error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| self.refused(error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| self.refused(error))?;
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        Ok(Arc::new(config))
    }

    fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| self.refused(error))?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| self.refused(error))?;
        config.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in &self.authorities {
            roots
                .add(authority.clone())
                .map_err(|error| self.broken(TlsRole::Authority, error.to_string()))?;
        }
        Ok(Arc::new(roots))
    }

    /// What rustls says of certificate and key together.
    fn refused(&self, error: rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::KeyMismatch {
                    key: self.files.key.clone(),
                    certificate: self.files.certificate.clone(),
                }
            }
            rustls::Error::InvalidCertificate(reason) => {
                self.broken(TlsRole::Certificate, format!("{reason:?}"))
            }
            error => self.broken(TlsRole::Key, error.to_string()),
        }
    }

    fn broken(&self, role: TlsRole, reason: String) -> TlsError {
        let path = match role {
            TlsRole::Certificate => &self.files.certificate,
            TlsRole::Key => &self.files.key,
            TlsRole::Authority => &self.files.authority,
        };
        TlsError::Broken { role, path: path.clone(), reason }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn read_pem(role: TlsRole, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(PEM_FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(source) => Err(TlsError::Unreadable { role, path: path.to_owned(), source }),
        Ok(_) if bytes.len() as u64 > PEM_FILE_BYTES_MAX => Err(TlsError::Broken {
            role,
            path: path.to_owned(),
            reason: format!("it is over {PEM_FILE_BYTES_MAX} bytes"),
        }),
        Ok(_) => Ok(bytes),
    }
}

/// At least one certificate, each of which parses.
fn read_certificates(role: TlsRole, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read_pem(role, path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| broken(role, path, &error))?;
    if certificates.is_empty() {
        return Err(TlsError::NotPem { role, path: path.to_owned() });
    }
    for certificate in &certificates {
        Validity::of(role, path, certificate)?;
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    use rustls::pki_types::pem::Error;
    let pem = read_pem(TlsRole::Key, path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        Error::NoItemsFound => TlsError::NotPem { role: TlsRole::Key, path: path.to_owned() },
        error => broken(TlsRole::Key, path, &error),
    })
}

fn broken(role: TlsRole, path: &Path, reason: &dyn fmt::Display) -> TlsError {
    TlsError::Broken { role, path: path.to_owned(), reason: reason.to_string() }
}

/// From when until when a certificate is valid.
struct Validity {
    from: OffsetDateTime,
    until: OffsetDateTime,
}

impl Validity {
    fn of(role: TlsRole, path: &Path, certificate: &CertificateDer) -> Result<Self, TlsError> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| broken(role, path, &error))?;
        let validity = parsed.validity();
        Ok(Self {
            from: validity.not_before.to_datetime(),
            until: validity.not_after.to_datetime(),
        })
    }
}

fn check_dates(
    role: TlsRole,
    path: &Path,
    certificate: &CertificateDer,
    now: OffsetDateTime,
) -> Result<(), TlsError> {
    let validity = Validity::of(role, path, certificate)?;
    let path = path.to_owned();
    if now > validity.until {
        let date = validity.until;
        return Err(TlsError::Expired { role, path, date });
    }
    if now < validity.from {
        let date = validity.from;
        return Err(TlsError::NotYetValid { role, path, date });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{self, IssueOptions, Usage};
    use rustls::pki_types::ServerName;
    use std::time::Duration;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    const HOUR: Duration = Duration::from_hours(1);

    fn authority() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        pki::init(folder.path()).unwrap();
        folder
    }

    fn issue(folder: &TempDir, name: &str, usage: Usage) -> TlsFiles {
        pki::issue(folder.path(), name, &IssueOptions::new(usage, 1)).unwrap()
    }

    fn issue_for(folder: &TempDir, name: &str, from: SystemTime, until: SystemTime) -> TlsFiles {
        let options = IssueOptions {
            valid_from: from,
            valid_until: until,
            ..IssueOptions::new(Usage::Both, 1)
        };
        pki::issue(folder.path(), name, &options).unwrap()
    }

    fn issue_expired(folder: &TempDir, name: &str) -> TlsFiles {
        let now = SystemTime::now();
        issue_for(folder, name, now - 2 * HOUR, now - HOUR)
    }

    /// Files as they are, their dates not judged: the peer must judge them.
    fn unchecked_server(files: &TlsFiles) -> Arc<ServerConfig> {
        TlsMaterial::read(files).unwrap().server_config().unwrap()
    }

    fn unchecked_client(files: &TlsFiles) -> Arc<ClientConfig> {
        TlsMaterial::read(files).unwrap().client_config().unwrap()
    }

    /// What each side says after a handshake and one byte from the server.
    struct Met {
        server: Result<(), String>,
        client: Result<(), String>,
    }

    async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>, name: &str) -> Met {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let (stream, _) = listener.accept().await?;
            let mut stream = TlsAcceptor::from(server).accept(stream).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(ALPN_HTTP2));
            stream.write_all(b"!").await?;
            stream.shutdown().await
        };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            let mut stream = TlsConnector::from(client).connect(name, stream).await?;
            stream.read_u8().await.map(drop)
        };
        let (server, client) = tokio::join!(serve, connect);
        let text = |result: io::Result<()>| result.map_err(|error| error.to_string());
        Met { server: text(server), client: text(client) }
    }

    #[tokio::test]
    async fn peers_of_one_authority_meet_under_each_name_of_the_server() {
        let folder = authority();
        let server = server_config(&issue(&folder, "cloud", Usage::Server)).unwrap();
        let client = client_config(&issue(&folder, "edge", Usage::Client)).unwrap();
        for name in ["localhost", "127.0.0.1", "::1"] {
            let met = meet(server.clone(), client.clone(), name).await;
            assert_eq!((met.server, met.client), (Ok(()), Ok(())), "{name}");
        }
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_trusted_is_refused_by_the_client() {
        let (folder, foreign) = (authority(), authority());
        let client = unchecked_client(&issue(&folder, "edge", Usage::Client));
        let good = issue(&folder, "cloud", Usage::Server);
        for (server, name, reason) in [
            (issue(&foreign, "cloud", Usage::Server), "localhost", "UnknownIssuer"),
            (issue_expired(&folder, "old"), "localhost", "expired"),
            (issue(&folder, "client", Usage::Client), "localhost", "extended key usage"),
            (good, "other.example", "not valid for name"),
        ] {
            let met = meet(unchecked_server(&server), client.clone(), name).await;
            let refused = met.client.expect_err(reason);
            assert!(refused.contains(reason), "no `{reason}` in: {refused}");
            assert!(met.server.is_err(), "{reason}");
        }
    }

    #[tokio::test]
    async fn a_client_that_cannot_be_trusted_is_refused_by_the_server() {
        let (folder, foreign) = (authority(), authority());
        let server = unchecked_server(&issue(&folder, "cloud", Usage::Server));
        let trusting = |files: TlsFiles| TlsFiles {
            authority: folder.path().join(pki::AUTHORITY_CERTIFICATE),
            ..files
        };
        for (client, reason) in [
            (trusting(issue(&foreign, "edge", Usage::Client)), "UnknownIssuer"),
            (issue_expired(&folder, "old"), "expired"),
            (issue(&folder, "server", Usage::Server), "extended key usage"),
        ] {
            let met = meet(server.clone(), unchecked_client(&client), "localhost").await;
            let refused = met.server.expect_err(reason);
            assert!(refused.to_lowercase().contains(&reason.to_lowercase()), "{refused}");
            assert!(met.client.is_err(), "{reason}");
        }
    }

    #[tokio::test]
    async fn a_client_without_certificate_is_refused() {
        let folder = authority();
        let server = unchecked_server(&issue(&folder, "cloud", Usage::Server));
        let material = TlsMaterial::read(&issue(&folder, "edge", Usage::Client)).unwrap();
        let mut nameless = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(material.roots().unwrap())
            .with_no_client_auth();
        nameless.alpn_protocols = vec![ALPN_HTTP2.to_vec()];
        let met = meet(server, Arc::new(nameless), "localhost").await;
        let refused = met.server.unwrap_err();
        assert!(refused.contains("sent no certificates"), "{refused}");
        assert!(met.client.is_err());
    }

    #[test]
    fn an_error_names_the_file_and_what_is_wrong() {
        let folder = authority();
        let good = issue(&folder, "good", Usage::Both);
        let other = issue(&folder, "other", Usage::Both);
        let text = folder.path().join("text.pem");
        std::fs::write(&text, "no certificate here").unwrap();
        let torn = folder.path().join("torn.pem");
        let whole = std::fs::read_to_string(&good.certificate).unwrap();
        std::fs::write(&torn, &whole[..whole.len() / 2]).unwrap();
        let with = |certificate: &Path, key: &Path, authority: &Path| TlsFiles {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            authority: authority.to_owned(),
        };
        let missing = folder.path().join("missing.pem");
        let table = [
            (with(&missing, &good.key, &good.authority), ["certificate", "missing.pem"]),
            (with(&good.certificate, &missing, &good.authority), ["private key", "missing.pem"]),
            (with(&good.certificate, &good.key, &missing), ["authority", "missing.pem"]),
            (with(&text, &good.key, &good.authority), ["text.pem", "-----BEGIN"]),
            (with(&torn, &good.key, &good.authority), ["torn.pem", "broken"]),
            (with(&good.certificate, &text, &good.authority), ["text.pem", "-----BEGIN"]),
            (with(&good.certificate, &good.key, &text), ["text.pem", "-----BEGIN"]),
            (
                with(&good.certificate, &other.key, &good.authority),
                ["other.key does not belong", "good.pem"],
            ),
        ];
        for (files, parts) in table {
            for message in [
                server_config(&files).unwrap_err().to_string(),
                client_config(&files).unwrap_err().to_string(),
            ] {
                for part in parts {
                    assert!(message.contains(part), "no `{part}` in: {message}");
                }
            }
        }
    }

    #[test]
    fn dates_are_judged_before_anything_listens() {
        let folder = authority();
        let now = SystemTime::now();
        let expired = issue_expired(&folder, "expired");
        let error = server_config(&expired).unwrap_err();
        assert!(matches!(error, TlsError::Expired { .. }), "{error}");
        let year = OffsetDateTime::from(now - HOUR).year().to_string();
        assert!(error.to_string().contains(&year), "{error}");

        let early = issue_for(&folder, "early", now + HOUR, now + 2 * HOUR);
        let error = client_config(&early).unwrap_err();
        assert!(matches!(error, TlsError::NotYetValid { .. }), "{error}");

        let after_authority = now + 24 * HOUR * (pki::AUTHORITY_DAYS + 1);
        let outliving = issue_for(&folder, "outliving", now, after_authority + HOUR);
        let material = TlsMaterial::read(&outliving).unwrap();
        let error = material.check_dates(after_authority).unwrap_err();
        assert!(error.to_string().contains("ca.pem expired on"), "{error}");
    }

    #[test]
    fn a_certificate_of_the_other_side_is_refused_before_anything_listens() {
        let folder = authority();
        let both = issue(&folder, "both", Usage::Both);
        assert!(server_config(&both).is_ok() && client_config(&both).is_ok());
        let error = server_config(&issue(&folder, "phone", Usage::Client)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("phone.pem was not issued for a server"), "{text}");
        assert!(text.contains("--server"), "{text}");
        let error = client_config(&issue(&folder, "cloud", Usage::Server)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("cloud.pem was not issued for a client"), "{text}");
        assert!(text.contains("--client"), "{text}");
    }

    #[test]
    fn expiry_is_that_of_the_certificate() {
        let folder = authority();
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        let files = issue_for(&folder, "long", SystemTime::now(), until);
        assert_eq!(certificate_expiry(&files).unwrap(), until);
    }
}
