//! The tenant: the name that a certificate gives to whoever presents it. Only names are read here;
//! whether the certificate is to be trusted was settled by the handshake.

use std::fmt;

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Longest tenant name in bytes: that of the longest DNS name, and enough for a URI.
pub const TENANT_NAME_BYTES_MAX: usize = 255;

/// Who calls: the first URI name of the certificate, else its first DNS name, so that a renewed
/// certificate is the same tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantName(String);

/// Why a certificate or text names no tenant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// Not an X.509 certificate, or its extensions are broken.
    #[error("the certificate cannot be read: {reason}")]
    Unreadable {
        /// What the parser says.
        reason: String,
    },
    /// Neither a URI nor a DNS name among its alternative names.
    #[error(
        "the certificate has neither a URI nor a DNS alternative name: issue one with a name such \
         as `relay://tenant/NAME`"
    )]
    Nameless,
    /// A name that cannot be written into a log or a label.
    #[error(
        "the tenant name must be 1 to {TENANT_NAME_BYTES_MAX} visible ASCII characters, and this \
         one has {bytes} bytes: issue a certificate with another name"
    )]
    Unspeakable {
        /// Its length.
        bytes: usize,
    },
}

impl TenantName {
    /// Checks that the name is 1 to [`TENANT_NAME_BYTES_MAX`] visible ASCII characters.
    ///
    /// # Errors
    /// [`TenantError::Unspeakable`].
    pub fn new(name: &str) -> Result<Self, TenantError> {
        let speakable = name.bytes().all(|byte| byte.is_ascii_graphic());
        if name.is_empty() || name.len() > TENANT_NAME_BYTES_MAX || !speakable {
            return Err(TenantError::Unspeakable { bytes: name.len() });
        }
        Ok(Self(name.to_owned()))
    }

    /// The one tenant of a service that asks for no certificate.
    pub fn local() -> Self {
        Self("local".to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The tenant named by a DER certificate: its first URI alternative name, else its first DNS name.
///
/// # Errors
/// [`TenantError`] when it has neither, or a name out of range.
pub fn tenant_of(certificate_der: &[u8]) -> Result<TenantName, TenantError> {
    let unreadable = |reason: String| TenantError::Unreadable { reason };
    let (_, certificate) = X509Certificate::from_der(certificate_der)
        .map_err(|error| unreadable(error.to_string()))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| unreadable(error.to_string()))?
        .ok_or(TenantError::Nameless)?;
    let names = &names.value.general_names;
    let uri = names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let dns = || {
        names.iter().find_map(|name| match name {
            GeneralName::DNSName(dns) => Some(*dns),
            _ => None,
        })
    };
    TenantName::new(uri.or_else(dns).ok_or(TenantError::Nameless)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(Ia5String::try_from(text).unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(Ia5String::try_from(text).unwrap())
    }

    #[test]
    fn the_first_uri_wins_then_the_first_dns_name() {
        let address = || SanType::IpAddress([127, 0, 0, 1].into());
        let mail = || SanType::Rfc822Name(Ia5String::try_from("a@b.c").unwrap());
        let long = format!("relay://{}", "a".repeat(TENANT_NAME_BYTES_MAX));
        let table: [(Vec<SanType>, Result<&str, TenantError>); 8] = [
            (vec![dns("d"), uri("u:1"), uri("u:2")], Ok("u:1")),
            (vec![address(), dns("d1"), dns("d2")], Ok("d1")),
            (vec![address(), mail()], Err(TenantError::Nameless)),
            (vec![], Err(TenantError::Nameless)),
            (vec![uri("u:with space"), dns("d")], Err(TenantError::Unspeakable { bytes: 12 })),
            (vec![uri("u:\n"), dns("d")], Err(TenantError::Unspeakable { bytes: 3 })),
            (vec![uri("")], Err(TenantError::Unspeakable { bytes: 0 })),
            (vec![uri(&long)], Err(TenantError::Unspeakable { bytes: long.len() })),
        ];
        for (names, expected) in table {
            let expected = expected.map(|name| TenantName(name.to_owned()));
            assert_eq!(tenant_of(&certificate(names.clone())), expected, "{names:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for bytes in [&[][..], b"not a certificate", &[0x30, 0x82, 0xff, 0xff]] {
            let refused = tenant_of(bytes);
            assert!(matches!(refused, Err(TenantError::Unreadable { .. })), "{refused:?}");
        }
    }
}
