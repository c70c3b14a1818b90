//! TLS that follows its files: certificates are renewed without a restart. Judges nothing itself:
//! what `tls.rs` refuses is refused here too, and the old certificates stay in use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::{ClientConfig, ServerConfig};
use tokio::time::MissedTickBehavior;

use crate::shutdown::Shutdown;
use crate::tls::{TlsError, TlsFiles, TlsMaterial};

type Build<C> = fn(&TlsMaterial) -> Result<Arc<C>, TlsError>;

/// The TLS configuration of one side as its files say it now; clones share it. Ask for
/// [`Self::current`] at each new connection; those that stand keep what they began with.
pub struct ReloadingTls<C>(Arc<Shared<C>>);

struct Shared<C> {
    files: TlsFiles,
    build: Build<C>,
    loaded: RwLock<Loaded<C>>,
    failures: AtomicU64,
}

struct Loaded<C> {
    material: TlsMaterial,
    config: Arc<C>,
    expiry: SystemTime,
}

impl<C> Clone for ReloadingTls<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl ReloadingTls<ServerConfig> {
    /// As [`crate::tls::server_config`], and follows the files.
    ///
    /// # Errors
    /// [`TlsError`] if the files are wrong now.
    pub fn server(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::load(files, TlsMaterial::checked_server_config)
    }
}

impl ReloadingTls<ClientConfig> {
    /// As [`crate::tls::client_config`], and follows the files.
    ///
    /// # Errors
    /// [`TlsError`] if the files are wrong now.
    pub fn client(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::load(files, TlsMaterial::checked_client_config)
    }
}

impl<C: Send + Sync + 'static> ReloadingTls<C> {
    fn load(files: &TlsFiles, build: Build<C>) -> Result<Self, TlsError> {
        let loaded = Loaded::from(TlsMaterial::read(files)?, build)?;
        Ok(Self(Arc::new(Shared {
            files: files.clone(),
            build,
            loaded: RwLock::new(loaded),
            failures: AtomicU64::new(0),
        })))
    }

    /// The configuration for a connection that begins now.
    pub fn current(&self) -> Arc<C> {
        Arc::clone(&self.read().config)
    }

    /// When the certificate in use expires: for a metric and its alert.
    pub fn expiry(&self) -> SystemTime {
        self.read().expiry
    }

    /// How many times the files were found changed but wrong, or could not be read.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Rereads the files and says whether they brought something new. Blocks for three small reads.
    ///
    /// # Errors
    /// [`TlsError`] if they are wrong; the old configuration then stays.
    pub fn reload(&self) -> Result<bool, TlsError> {
        self.reread().inspect_err(|_| {
            self.0.failures.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn reread(&self) -> Result<bool, TlsError> {
        // Contents are compared and not times: a folder swapped as a whole, as orchestrators do
        // it, may bring any time with it.
        let material = TlsMaterial::read(&self.0.files)?;
        if material == self.read().material {
            return Ok(false);
        }
        let loaded = Loaded::from(material, self.0.build)?;
        *self.0.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(true)
    }

    /// Rereads the files at every interval until `end` begins. A wrong file is logged and tried
    /// again at the next: certificate and key may be between their two writes.
    pub async fn follow(self, interval: Duration, end: Shutdown) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.begun() => return,
                _ = ticks.tick() => self.follow_once().await,
            }
        }
    }

    async fn follow_once(&self) {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || this.reload()).await {
            Ok(Ok(true)) => tracing::info!("certificates reloaded"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "certificates not reloaded, old ones stay"),
            Err(error) => tracing::error!(%error, "certificate reload ended early"),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Loaded<C>> {
        self.0.loaded.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Loaded<C> {
    fn from(material: TlsMaterial, build: Build<C>) -> Result<Self, TlsError> {
        Ok(Self { config: build(&material)?, expiry: material.expiry()?, material })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{self, IssueOptions, Usage};
    use tempfile::TempDir;

    fn authority() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        pki::init(folder.path()).unwrap();
        folder
    }

    fn issue(folder: &TempDir, days: u32) -> TlsFiles {
        let options = IssueOptions { replace: true, ..IssueOptions::new(Usage::Both, days) };
        pki::issue(folder.path(), "cloud", &options).unwrap()
    }

    #[test]
    fn a_renewed_certificate_is_taken_up() {
        let folder = authority();
        let tls = ReloadingTls::server(&issue(&folder, 1)).unwrap();
        let (first, expiry) = (tls.current(), tls.expiry());
        assert!(!tls.reload().unwrap(), "nothing changed");
        assert!(Arc::ptr_eq(&first, &tls.current()));
        issue(&folder, 9);
        assert!(tls.reload().unwrap());
        assert!(!Arc::ptr_eq(&first, &tls.current()));
        assert!(tls.expiry() > expiry);
        assert_eq!(tls.failures(), 0);
    }

    #[test]
    fn a_new_authority_is_taken_up() {
        let (folder, other) = (authority(), authority());
        let files = issue(&folder, 1);
        let tls = ReloadingTls::client(&files).unwrap();
        let first = tls.current();
        std::fs::copy(other.path().join(pki::AUTHORITY_CERTIFICATE), &files.authority).unwrap();
        assert!(tls.reload().unwrap());
        assert!(!Arc::ptr_eq(&first, &tls.current()));
    }

    #[test]
    fn wrong_files_leave_the_old_ones_in_use_and_are_counted() {
        let folder = authority();
        let files = issue(&folder, 1);
        let tls = ReloadingTls::server(&files).unwrap();
        let (first, good) = (tls.current(), std::fs::read(&files.key).unwrap());
        let spoilt: [&dyn Fn(); 3] = [
            &|| std::fs::write(&files.key, "torn").unwrap(),
            &|| std::fs::remove_file(&files.key).unwrap(),
            // A certificate whose key has not been written yet.
            &|| {
                issue(&folder, 1);
                std::fs::write(&files.key, &good).unwrap();
            },
        ];
        for (spoil, failures) in spoilt.iter().zip(1..) {
            spoil();
            tls.reload().unwrap_err();
            assert!(Arc::ptr_eq(&first, &tls.current()));
            assert_eq!(tls.failures(), failures);
        }
        issue(&folder, 1);
        assert!(tls.reload().unwrap(), "right files end the trouble");
    }

    #[test]
    fn an_expired_renewal_is_not_taken_up() {
        let folder = authority();
        let tls = ReloadingTls::server(&issue(&folder, 1)).unwrap();
        let options = IssueOptions {
            replace: true,
            valid_until: SystemTime::now() - Duration::from_secs(1),
            ..IssueOptions::new(Usage::Both, 1)
        };
        pki::issue(folder.path(), "cloud", &options).unwrap();
        let error = tls.reload().unwrap_err();
        assert!(matches!(error, TlsError::Expired { .. }), "{error}");
    }

    #[tokio::test]
    async fn following_ends_with_the_shutdown() {
        let folder = authority();
        let tls = ReloadingTls::server(&issue(&folder, 1)).unwrap();
        let first = tls.current();
        let (shutdown, trigger) = Shutdown::manual();
        let interval = Duration::from_millis(1);
        let following = tokio::spawn(tls.clone().follow(interval, shutdown));
        issue(&folder, 2);
        while Arc::ptr_eq(&first, &tls.current()) {
            tokio::time::sleep(interval).await;
        }
        trigger.begin();
        following.await.unwrap();
    }
}
