//! A certificate authority in a folder: what a small team starts with, and tests too. The authority
//! is `ca.pem` and `ca.key`; what it issues is `NAME.pem` and `NAME.key`. Serves nothing, and
//! revokes nothing: a certificate ends when its time is over.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::tls::TlsFiles;

/// The authority's certificate.
pub const AUTHORITY_CERTIFICATE: &str = "ca.pem";

/// The authority's private key.
pub const AUTHORITY_KEY: &str = "ca.key";

/// How long the authority is valid in days.
pub const AUTHORITY_DAYS: u32 = 3650;

/// The end of the year 9999, the last that a certificate can name (RFC 5280, 4.1.2.5), in seconds
/// since 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// Longest name of a certificate in bytes.
pub const CERTIFICATE_NAME_BYTES_MAX: usize = 64;

/// Before this many seconds ago a new certificate is not valid: room for clocks that go wrong.
const CLOCK_SKEW_SECONDS: u64 = 300;

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// A private key is for its owner alone.
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o700;

/// What an issued certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To listen; carries `localhost`, 127.0.0.1 and `::1` beside the names given.
    Server,
    /// To connect.
    Client,
    /// Both.
    Both,
}

/// How to issue a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssueOptions {
    /// What it may be used for.
    pub usage: Usage,
    /// DNS names it is valid for.
    pub dns_names: Vec<String>,
    /// Addresses it is valid for.
    pub ip_addresses: Vec<IpAddr>,
    /// The tenant's URI; `relay://tenant/NAME` if none is given.
    pub uri: Option<String>,
    /// First moment it is valid.
    pub valid_from: SystemTime,
    /// Last moment it is valid.
    pub valid_until: SystemTime,
    /// Whether a certificate of the same name is replaced. Each file is swapped whole.
    pub replace: bool,
}

impl IssueOptions {
    /// A certificate valid from now on for so many days, with no names but the usual ones.
    pub fn new(usage: Usage, days: u32) -> Self {
        let now = SystemTime::now();
        Self {
            usage,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            uri: None,
            valid_from: now - Duration::from_secs(CLOCK_SKEW_SECONDS),
            valid_until: now + Duration::from_secs(u64::from(days) * DAY_SECONDS),
            replace: false,
        }
    }
}

/// Why the authority did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The file is there already.
    #[error("{} is there already and is not overwritten: {remedy}", path.display())]
    AlreadyThere {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// The folder holds no authority.
    #[error(
        "{} holds no authority (no {}): make one with `pki init` first",
        folder.display(), missing
    )]
    NoAuthority {
        /// The folder.
        folder: PathBuf,
        /// The file that is missing.
        missing: &'static str,
    },
    /// A file could not be read or written.
    #[error("{}: {source}; check the path and its permissions", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A name that makes no file name.
    #[error(
        "`{name}` is no name for a certificate: use 1 to {CERTIFICATE_NAME_BYTES_MAX} of a-z, A-Z, \
         0-9, `-`, `_` and `.`, not beginning with `.`, and not `ca`"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// An alternative name that cannot stand in a certificate.
    #[error("`{name}` cannot stand in a certificate: it must be 1 to 255 visible ASCII characters")]
    AlternativeName {
        /// The name.
        name: String,
    },
    /// It would end before it begins.
    #[error("the certificate would end before it begins: give it at least one day")]
    Validity,
    /// Its end is no date that a certificate can say.
    #[error("the certificate would be valid too long: give it at most {AUTHORITY_DAYS} days")]
    TooLong,
    /// The files of the authority do not hold one, or the system gave no random bytes.
    #[error("the authority in {} cannot sign: {source}", folder.display())]
    Sign {
        /// The folder.
        folder: PathBuf,
        /// What the library says.
        source: rcgen::Error,
    },
}

/// Makes an authority in `folder`, which is made too if it is not there. Returns the path of its
/// certificate, the one file that every peer needs a copy of.
///
/// # Errors
/// [`PkiError::AlreadyThere`] if the folder holds one, whole or in part.
pub fn init(folder: &Path) -> Result<PathBuf, PkiError> {
    let certificate_path = folder.join(AUTHORITY_CERTIFICATE);
    let key_path = folder.join(AUTHORITY_KEY);
    for path in [&certificate_path, &key_path] {
        refuse_existing(path, "choose another folder, or remove the old authority")?;
    }
    let failed = |source| PkiError::Sign { folder: folder.to_owned(), source };
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = authority_params(&key).self_signed(&key).map_err(failed)?;
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        .map_err(|source| PkiError::File { path: folder.to_owned(), source })?;
    write_fresh(&key_path, &key.serialize_pem(), KEY_MODE)?;
    write_fresh(&certificate_path, &certificate.pem(), CERTIFICATE_MODE)?;
    Ok(certificate_path)
}

fn authority_params(key: &KeyPair) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    // Two authorities of one name would be told apart only by a bad signature.
    let identifier = params.key_identifier(key);
    let number =
        identifier.iter().take(4).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    let name = format!("relay authority {number:08x}");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // It signs certificates of peers, never another authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - Duration::from_secs(CLOCK_SKEW_SECONDS)).into();
    params.not_after = (now + Duration::from_secs(u64::from(AUTHORITY_DAYS) * DAY_SECONDS)).into();
    params
}

/// Issues a certificate from the authority in `folder` and returns its files, the authority's
/// certificate among them.
///
/// # Errors
/// [`PkiError`]: no authority, a bad name, or a certificate of that name is there and `replace` is
/// not set.
pub fn issue(folder: &Path, name: &str, options: &IssueOptions) -> Result<TlsFiles, PkiError> {
    check_name(name)?;
    let files = files_of(folder, name);
    if !options.replace {
        for path in [&files.certificate, &files.key] {
            refuse_existing(path, "choose another name, or replace it (--replace)")?;
        }
    }
    let failed = |source| PkiError::Sign { folder: folder.to_owned(), source };
    let params = leaf_params(name, options)?;
    let authority = read_authority(folder)?;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, &authority).map_err(failed)?;
    write_whole(&files.key, &key.serialize_pem(), KEY_MODE)?;
    write_whole(&files.certificate, &certificate.pem(), CERTIFICATE_MODE)?;
    Ok(files)
}

/// Where [`issue`] puts the files of a name.
pub fn files_of(folder: &Path, name: &str) -> TlsFiles {
    TlsFiles {
        certificate: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
        authority: folder.join(AUTHORITY_CERTIFICATE),
    }
}

fn leaf_params(name: &str, options: &IssueOptions) -> Result<CertificateParams, PkiError> {
    if options.valid_until <= options.valid_from {
        return Err(PkiError::Validity);
    }
    let end = options.valid_until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if end.as_secs() > LAST_SECOND {
        return Err(PkiError::TooLong);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = alternative_names(name, options)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match options.usage {
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Both => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
    };
    params.use_authority_key_identifier_extension = true;
    params.not_before = options.valid_from.into();
    params.not_after = options.valid_until.into();
    Ok(params)
}

fn alternative_names(name: &str, options: &IssueOptions) -> Result<Vec<SanType>, PkiError> {
    let uri = options.uri.clone().unwrap_or_else(|| format!("relay://tenant/{name}"));
    let mut names = vec![SanType::URI(alternative_name(&uri)?)];
    for dns in &options.dns_names {
        names.push(SanType::DnsName(alternative_name(dns)?));
    }
    names.extend(options.ip_addresses.iter().copied().map(SanType::IpAddress));
    if options.usage != Usage::Client {
        let usual = [
            SanType::DnsName(alternative_name("localhost")?),
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
        ];
        names.extend(usual);
    }
    Ok(names)
}

fn alternative_name(name: &str) -> Result<Ia5String, PkiError> {
    let refused = || PkiError::AlternativeName { name: name.to_owned() };
    // What `tenant.rs` would refuse later is not issued at all.
    crate::tenant::TenantName::new(name).map_err(|_| refused())?;
    Ia5String::try_from(name).map_err(|_| refused())
}

fn check_name(name: &str) -> Result<(), PkiError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let good = (1..=CERTIFICATE_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('.')
        && !name.eq_ignore_ascii_case("ca");
    if good { Ok(()) } else { Err(PkiError::Name { name: name.to_owned() }) }
}

fn read_authority(folder: &Path) -> Result<Issuer<'static, KeyPair>, PkiError> {
    let failed = |source| PkiError::Sign { folder: folder.to_owned(), source };
    let certificate = read_authority_file(folder, AUTHORITY_CERTIFICATE)?;
    let key = read_authority_file(folder, AUTHORITY_KEY)?;
    let key = KeyPair::from_pem(&key).map_err(failed)?;
    Issuer::from_ca_cert_pem(&certificate, key).map_err(failed)
}

fn read_authority_file(folder: &Path, name: &'static str) -> Result<String, PkiError> {
    let path = folder.join(name);
    std::fs::read_to_string(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => {
            PkiError::NoAuthority { folder: folder.to_owned(), missing: name }
        }
        _ => PkiError::File { path, source },
    })
}

fn refuse_existing(path: &Path, remedy: &'static str) -> Result<(), PkiError> {
    match path.symlink_metadata() {
        Ok(_) => Err(PkiError::AlreadyThere { path: path.to_owned(), remedy }),
        Err(_) => Ok(()),
    }
}

/// Writes a file that must not be there yet.
fn write_fresh(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|source| PkiError::File { path: path.to_owned(), source })
}

/// Puts a file in place at once, so that no reader ever sees half of it.
fn write_whole(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}.fresh", std::process::id()));
    let fresh = PathBuf::from(fresh);
    write_fresh(&fresh, text, mode)?;
    std::fs::rename(&fresh, path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::tenant_of;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use std::os::unix::fs::PermissionsExt;

    fn authority() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        init(folder.path()).unwrap();
        folder
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let folder = authority();
        let files = issue(folder.path(), "edge", &IssueOptions::new(Usage::Client, 1)).unwrap();
        assert_eq!(mode(&folder.path().join(AUTHORITY_KEY)), 0o600);
        assert_eq!(mode(&files.key), 0o600);
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let folder = authority();
        let before = std::fs::read(folder.path().join(AUTHORITY_KEY)).unwrap();
        let again = init(folder.path()).unwrap_err();
        assert!(matches!(again, PkiError::AlreadyThere { .. }), "{again}");
        assert_eq!(std::fs::read(folder.path().join(AUTHORITY_KEY)).unwrap(), before);

        let mut options = IssueOptions::new(Usage::Both, 1);
        let files = issue(folder.path(), "both", &options).unwrap();
        let first = std::fs::read(&files.certificate).unwrap();
        let again = issue(folder.path(), "both", &options).unwrap_err();
        assert!(again.to_string().contains("both.pem"), "{again}");
        assert_eq!(std::fs::read(&files.certificate).unwrap(), first);
        options.replace = true;
        issue(folder.path(), "both", &options).unwrap();
        assert_ne!(std::fs::read(&files.certificate).unwrap(), first);
    }

    #[test]
    fn half_an_authority_is_not_completed() {
        for half in [AUTHORITY_CERTIFICATE, AUTHORITY_KEY] {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(half), "").unwrap();
            let error = init(folder.path()).unwrap_err();
            assert!(matches!(error, PkiError::AlreadyThere { .. }), "{error}");
            assert!(error.to_string().contains(half), "{error}");
        }
    }

    #[test]
    fn a_certificate_names_its_tenant() {
        let folder = authority();
        let mut options = IssueOptions::new(Usage::Client, 1);
        options.dns_names = vec!["edge.example".to_owned()];
        let tenant = |name: &str, options: &IssueOptions| {
            let files = issue(folder.path(), name, options).unwrap();
            let der = CertificateDer::from_pem_file(files.certificate).unwrap();
            tenant_of(&der).unwrap().to_string()
        };
        assert_eq!(tenant("edge-1", &options), "relay://tenant/edge-1");
        options.uri = Some("relay://tenant/shared".to_owned());
        assert_eq!(tenant("edge-2", &options), "relay://tenant/shared");
    }

    #[test]
    fn names_that_make_no_file_are_refused() {
        let folder = authority();
        let long = "a".repeat(CERTIFICATE_NAME_BYTES_MAX + 1);
        for name in ["", "../up", "a/b", ".hidden", "ca", "CA", "a b", "é", &long] {
            let options = IssueOptions::new(Usage::Both, 1);
            let error = issue(folder.path(), name, &options).unwrap_err();
            assert!(matches!(error, PkiError::Name { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn a_wish_that_cannot_be_met_is_explained() {
        let empty = tempfile::tempdir().unwrap();
        let options = IssueOptions::new(Usage::Both, 1);
        let error = issue(empty.path(), "a", &options).unwrap_err();
        assert!(error.to_string().contains("pki init"), "{error}");

        let folder = authority();
        let none = IssueOptions::new(Usage::Both, 0);
        let none = IssueOptions { valid_from: none.valid_until, ..none };
        let error = issue(folder.path(), "a", &none).unwrap_err();
        assert!(matches!(error, PkiError::Validity), "{error}");

        let endless = IssueOptions::new(Usage::Client, u32::MAX);
        let error = issue(folder.path(), "a", &endless).unwrap_err();
        assert!(error.to_string().contains("at most 3650 days"), "{error}");

        let spaced =
            IssueOptions { dns_names: vec!["a b".to_owned()], ..IssueOptions::new(Usage::Both, 1) };
        let error = issue(folder.path(), "a", &spaced).unwrap_err();
        assert!(error.to_string().contains("`a b`"), "{error}");
    }
}
