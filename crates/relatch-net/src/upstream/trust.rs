//! Whom an https upstream has to be vouched for by, and with what relatch says who it is.
//!
//! Either the platform's trust store, or a file of certificates in its place; and a client certificate where a server wants
//! one. Files are read again when they have changed: a certificate that is renewed needs no restart. What TLS says no to is
//! put into words here; what follows from a no is the core's.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, SignatureScheme};

use super::broken::Cause;
use crate::lock;

/// A longer file holds no certificates that anybody meant.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// How https upstreams are trusted. Cheap to clone; nothing is loaded before the first https connection.
#[derive(Clone, Default)]
pub struct Tls {
    inner: Arc<Inner>,
}

/// Files in place of what the platform offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Certificates that vouch for the server, in place of the platform's; PEM.
    pub ca: Option<PathBuf>,
    /// What relatch shows to a server that asks.
    pub identity: Option<Identity>,
}

/// A client certificate, with those that vouch for it behind it, and its key; both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate's file.
    pub cert: PathBuf,
    /// The key's file; it may be the same.
    pub key: PathBuf,
}

/// Why files are no trust and no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The system gives it to nobody, or not to this user.
    #[error("`{0}` can't be read: {1}")]
    Unreadable(String, String),
    /// Over the bound.
    #[error("`{0}` is longer than 4 MiB, and no file of certificates is")]
    TooLong(String),
    /// Something else, or nothing.
    #[error("`{0}` holds no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificate(String),
    /// A certificate that is none.
    #[error("a certificate in `{0}` is broken: {1}")]
    BadCertificate(String, String),
    /// Something else, or nothing.
    #[error("`{0}` holds no private key in PEM form (`-----BEGIN PRIVATE KEY-----`)")]
    NoKey(String),
    /// It would need a passphrase.
    #[error("the key in `{0}` is locked with a passphrase, which relatch can't ask for")]
    LockedKey(String),
    /// A key that is none, or of a sort that is not spoken here.
    #[error("the key in `{0}` can't be used: {1}")]
    BadKey(String, String),
    /// Two that don't belong together.
    #[error("the key in `{1}` does not fit the certificate in `{0}`")]
    NotAPair(String, String),
    /// The platform's own store.
    #[error("the platform's trust store: {0}")]
    Platform(String),
}

impl TrustError {
    /// One thing to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Unreadable(..) => "Correct the path, or let the user of relatch read the file".into(),
            Self::TooLong(_) | Self::NoCertificate(_) | Self::BadCertificate(..) => {
                "Give a file with certificates in PEM form; `openssl x509 -inform der -in FILE` turns the other form into it".into()
            }
            Self::NoKey(_) | Self::BadKey(..) => {
                "Give the file with the private key in PEM form: RSA, ECDSA (P-256, P-384) or Ed25519".into()
            }
            Self::LockedKey(path) => {
                format!("Unlock it into a file of its own, for this user alone: `openssl pkey -in {path} -out KEY.pem`")
            }
            Self::NotAPair(..) => "Give the key that the certificate was made for, and its certificate first in its file".into(),
            Self::Platform(_) => "Install the certificates of the system (`ca-certificates`), or name some with `ca`".into(),
        }
    }
}

impl Tls {
    /// What relatch shows to a server that asks.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.inner.files.identity.as_ref()
    }

    /// Trusts what the platform trusts; where `SSL_CERT_FILE` or `SSL_CERT_DIR` is set, what is there.
    #[must_use]
    pub fn platform() -> Self {
        Self::default()
    }

    /// Trusts what `config` says. It should offer no protocol but `http/1.1`.
    #[must_use]
    pub fn with_config(config: Arc<ClientConfig>) -> Self {
        let ready = Ready { config, asked: Arc::default(), settled: Arc::default() };
        let present = Present { ready, stamps: Vec::new() };
        Self { inner: Arc::new(Inner { files: Files::default(), present: Mutex::new(Some(present)) }) }
    }

    /// Goes by these files, as they are whenever a connection is made.
    #[must_use]
    pub fn with_files(files: Files) -> Self {
        Self { inner: Arc::new(Inner { files, present: Mutex::default() }) }
    }

    /// The files that it goes by.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.inner.files
    }

    /// Reads the files now.
    ///
    /// # Errors
    /// What is wrong with them. What was read before stays in use.
    pub fn check(&self) -> Result<(), TrustError> {
        self.inner.load(true).map(|_| ())
    }

    /// What a connection that begins now goes by.
    pub(crate) async fn ready(&self) -> Result<Ready, Cause> {
        let inner = Arc::clone(&self.inner);
        if inner.files == Files::default()
            && let Some(present) = &*lock(&inner.present)
        {
            return Ok(present.ready.clone());
        }
        // Files may be where reading takes its time.
        match tokio::task::spawn_blocking(move || inner.load(false)).await {
            Ok(loaded) => loaded.map_err(|fault| Cause::Tls(fault.to_string())),
            Err(_) => Err(Cause::Tls("reading the certificates ended early".to_owned())),
        }
    }
}

impl PartialEq for Tls {
    /// Whether both go by the same files.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner) || self.inner.files == other.inner.files
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loaded = lock(&self.inner.present).is_some();
        f.debug_struct("Tls").field("files", &self.inner.files).field("loaded", &loaded).finish()
    }
}

/// What one connection goes by.
#[derive(Clone)]
pub(crate) struct Ready {
    pub(crate) config: Arc<ClientConfig>,
    /// Whether a server has asked for a client certificate.
    asked: Arc<AtomicBool>,
    /// Whether such a server was given the time to refuse it.
    settled: Arc<AtomicBool>,
}

impl Ready {
    /// Whether the server should be given a moment to refuse relatch's certificate, or the lack of one: in TLS 1.3 it does so
    /// only after the handshake, when a call might be on its way. Once is enough: who was let in is let in again.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.asked.load(Ordering::Relaxed) && !self.settled.load(Ordering::Relaxed)
    }

    pub(crate) fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Inner {
    files: Files,
    present: Mutex<Option<Present>>,
}

struct Present {
    ready: Ready,
    stamps: Vec<Option<Stamp>>,
}

/// What tells that a file is another one, or was written to.
type Stamp = (Option<SystemTime>, u64, u64);

impl Inner {
    /// What the files hold now. Those that have become faulty since they were read don't count, unless asked for by `anew`:
    /// whoever replaces them may not be done.
    fn load(&self, anew: bool) -> Result<Ready, TrustError> {
        let stamps = self.stamps();
        if let Some(present) = &*lock(&self.present)
            && !anew
            && (stamps == present.stamps || self.files == Files::default())
        {
            return Ok(present.ready.clone());
        }
        match read(&self.files) {
            Ok(ready) => {
                *lock(&self.present) = Some(Present { ready: ready.clone(), stamps });
                Ok(ready)
            }
            Err(fault) => match &*lock(&self.present) {
                Some(present) if !anew => {
                    tracing::warn!("changed certificates are not used: {fault}");
                    Ok(present.ready.clone())
                }
                Some(_) | None => Err(fault),
            },
        }
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        use std::os::unix::fs::MetadataExt;
        let Files { ca, identity } = &self.files;
        let pair = identity.iter().flat_map(|identity| [&identity.cert, &identity.key]);
        ca.iter()
            .chain(pair)
            .map(|path| {
                let found = fs::metadata(path).ok()?;
                Some((found.modified().ok(), found.len(), found.ino()))
            })
            .collect()
    }
}

fn read(files: &Files) -> Result<Ready, TrustError> {
    use rustls_platform_verifier::BuilderVerifierExt;
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let key = files.identity.as_ref().map(|identity| identity.read(&ring)).transpose()?;
    let platform = |fault: rustls::Error| TrustError::Platform(fault.to_string());
    let builder =
        ClientConfig::builder_with_provider(ring).with_safe_default_protocol_versions().map_err(platform)?;
    let builder = match &files.ca {
        Some(path) => builder.with_root_certificates(roots(path)?),
        None => builder.with_platform_verifier().map_err(platform)?,
    };
    let asked = Arc::new(AtomicBool::new(false));
    let who = Who { key: key.map(Arc::new), asked: Arc::clone(&asked) };
    let mut config = builder.with_client_cert_resolver(Arc::new(who));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Ready { config: Arc::new(config), asked, settled: Arc::default() })
}

impl Identity {
    fn read(&self, ring: &CryptoProvider) -> Result<CertifiedKey, TrustError> {
        let chain = certificates(&self.cert)?;
        let (text, path) = (text(&self.key)?, shown(&self.key));
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|fault| match fault {
            PemError::NoItemsFound if contains(&text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") => {
                TrustError::LockedKey(path.clone())
            }
            PemError::NoItemsFound => TrustError::NoKey(path.clone()),
            fault => TrustError::BadKey(path.clone(), fault.to_string()),
        })?;
        if contains(&text, b"Proc-Type: 4,ENCRYPTED") {
            return Err(TrustError::LockedKey(path));
        }
        let key = ring.key_provider.load_private_key(key).map_err(|_| {
            TrustError::BadKey(path.clone(), "it is of no sort that relatch knows".to_owned())
        })?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            // Where a key can't tell what it fits, the server will.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(pair),
            Err(rustls::Error::InconsistentKeys(_)) => Err(TrustError::NotAPair(shown(&self.cert), path)),
            Err(fault) => Err(TrustError::BadCertificate(shown(&self.cert), fault.to_string())),
        }
    }
}

fn roots(path: &Path) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    let mut broken = None;
    for certificate in certificates(path)? {
        if let Err(fault) = roots.add(certificate) {
            broken.get_or_insert(fault);
        }
    }
    match broken {
        // A bundle may hold one that is of another age.
        Some(fault) if roots.is_empty() => Err(TrustError::BadCertificate(shown(path), fault.to_string())),
        Some(_) | None => Ok(roots),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let text = text(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TrustError::NoCertificate(shown(path))),
        Ok(found) => Ok(found),
        Err(fault) => Err(TrustError::BadCertificate(shown(path), fault.to_string())),
    }
}

fn text(path: &Path) -> Result<Vec<u8>, TrustError> {
    let unreadable = |fault: io::Error| TrustError::Unreadable(shown(path), words(&fault));
    let mut text = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text))
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE {
        return Err(TrustError::TooLong(shown(path)));
    }
    Ok(text)
}

fn words(fault: &io::Error) -> String {
    match fault.kind() {
        io::ErrorKind::NotFound => "it is not there".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        _ => fault.to_string(),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    text.windows(what.len()).any(|window| window == what)
}

/// Gives the certificate to whoever asks, and takes note of being asked.
#[derive(Debug)]
struct Who {
    key: Option<Arc<CertifiedKey>>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Who {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

/// Whether this is a server's no to the client's certificate, or to the lack of one. It comes before the server looks at
/// anything that was sent.
pub(crate) fn refuses_client(fault: &rustls::Error) -> bool {
    use AlertDescription as A;
    matches!(
        fault,
        rustls::Error::AlertReceived(
            A::CertificateRequired
                | A::NoCertificate
                | A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateRevoked
                | A::CertificateExpired
                | A::CertificateUnknown
                | A::UnknownCA
                | A::AccessDenied
                | A::DecryptError
        )
    )
}

/// Why TLS says no, for somebody who may mend it.
pub(crate) fn why(fault: &rustls::Error, files: &Files) -> String {
    match fault {
        rustls::Error::InvalidMessage(_) => format!("the peer does not speak TLS here ({fault})"),
        rustls::Error::InvalidCertificate(fault) => certificate(fault, files),
        rustls::Error::NoCertificatesPresented => "the server shows no certificate".to_owned(),
        rustls::Error::AlertReceived(alert) if refuses_client(fault) => match &files.identity {
            None => format!(
                "the server wants a client certificate, and none is configured (`cert` and `key`); it said {alert:?}"
            ),
            Some(identity) => format!(
                "the server refuses the client certificate in `{}`: it said {alert:?}",
                identity.cert.display()
            ),
        },
        rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion,
        )
        | rustls::Error::PeerIncompatible(_) => {
            format!(
                "the server speaks no TLS that relatch would: TLS 1.2 or 1.3 with present-day ciphers ({fault})"
            )
        }
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "the server knows nothing of the name in the address".to_owned()
        }
        _ => fault.to_string(),
    }
}

fn certificate(fault: &CertificateError, files: &Files) -> String {
    use CertificateError as E;
    match fault {
        E::Expired => "the server's certificate has expired".to_owned(),
        E::ExpiredContext { not_after, .. } => {
            format!("the server's certificate has expired, on {}", date(*not_after))
        }
        E::NotValidYet => "the server's certificate is not valid yet: is this machine's clock right?".to_owned(),
        E::NotValidYetContext { not_before, .. } => format!(
            "the server's certificate is valid from {} on: is this machine's clock right?",
            date(*not_before)
        ),
        E::Revoked => "the server's certificate was revoked".to_owned(),
        E::UnknownIssuer => match &files.ca {
            Some(ca) => format!(
                "the server's certificate is vouched for by nobody in `{}`, or the server does not send those in between",
                ca.display()
            ),
            None => "the server's certificate is vouched for by nobody whom this machine trusts; with a certificate \
                     authority of your own, name its file (`ca`)"
                .to_owned(),
        },
        E::NotValidForName => "the server's certificate is for another name than the address has".to_owned(),
        E::NotValidForNameContext { expected, presented } => {
            // As `DnsName("a.example")` and `IpAddress(127.0.0.1)`.
            let inside = |text: &String| {
                let text = text.split_once('(').map_or(text.as_str(), |(_, inside)| inside.trim_end_matches(')'));
                format!("`{}`", text.trim_matches('"'))
            };
            let names: Vec<String> = presented.iter().take(5).map(inside).collect();
            let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
            format!("the server's certificate is for {names}, and not for `{}`", expected.to_str())
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "the certificate is not one for servers".to_owned()
        }
        E::BadSignature => {
            "the server's certificate is signed in the name of a trusted authority, but not with its key".to_owned()
        }
        E::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the server shows the certificate of a certificate authority; it needs one of its own, signed by that \
             (with `CA:FALSE`)"
                .to_owned()
        }
        _ => format!("the server's certificate can't be accepted ({fault})"),
    }
}

fn date(at: UnixTime) -> String {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| format!("second {seconds}"), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Made {
        folder: tempfile::TempDir,
    }

    impl Made {
        fn new() -> Made {
            Made { folder: tempfile::tempdir().unwrap() }
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        }

        /// A certificate and its key.
        fn pair(&self, name: &str) -> (PathBuf, PathBuf) {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            let cert = self.file(&format!("{name}.pem"), &made.cert.pem());
            (cert, self.file(&format!("{name}.key"), &made.signing_key.serialize_pem()))
        }
    }

    fn fault(files: Files) -> TrustError {
        let fault = Tls::with_files(files).check().unwrap_err();
        assert!(!fault.hint().is_empty());
        fault
    }

    fn ca(path: PathBuf) -> Files {
        Files { ca: Some(path), identity: None }
    }

    fn pair(cert: &Path, key: &Path) -> Files {
        Files { ca: None, identity: Some(Identity { cert: cert.into(), key: key.into() }) }
    }

    #[test]
    fn each_faulty_file_is_named_with_what_is_wrong_with_it() {
        let made = Made::new();
        let (cert, key) = made.pair("a");
        let (other, _) = made.pair("b");
        let locked = made.file(
            "locked.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        let broken =
            made.file("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        for (files, words) in [
            (ca(made.folder.path().join("nothing.pem")), "nothing.pem` can't be read: it is not there"),
            (ca(made.folder.path().to_owned()), "it is a folder"),
            (ca(key.clone()), "a.key` holds no certificate"),
            (ca(made.file("empty.pem", "")), "empty.pem` holds no certificate"),
            (ca(broken), "a certificate in"),
            (pair(&cert, &cert), "a.pem` holds no private key"),
            (pair(&cert, &locked), "locked.key` is locked with a passphrase"),
            (pair(&other, &key), "a.key` does not fit the certificate in"),
            (pair(&cert, &made.file("huge.key", &"x".repeat(5 << 20))), "longer than 4 MiB"),
        ] {
            let fault = fault(files).to_string();
            assert!(fault.contains(words), "{fault}");
        }
        assert!(Tls::with_files(Files { ca: Some(cert.clone()), ..pair(&cert, &key) }).check().is_ok());
    }

    #[test]
    fn changed_files_are_read_again_and_faulty_ones_are_not_taken() {
        let made = Made::new();
        let (cert, _) = made.pair("a");
        let tls = Tls::with_files(ca(cert.clone()));
        let first = tls.inner.load(false).unwrap();
        let same = tls.inner.load(false).unwrap();
        assert!(Arc::ptr_eq(&first.config, &same.config), "nothing has changed");

        made.file("a.pem", "half of");
        let kept = tls.inner.load(false).unwrap();
        assert!(Arc::ptr_eq(&first.config, &kept.config), "the faulty file was taken");
        assert!(matches!(tls.check(), Err(TrustError::NoCertificate(_))));

        made.pair("b");
        fs::copy(made.folder.path().join("b.pem"), &cert).unwrap();
        let renewed = tls.inner.load(false).unwrap();
        assert!(!Arc::ptr_eq(&first.config, &renewed.config), "the new file was not taken");
    }

    #[test]
    fn a_no_of_tls_is_said_in_words() {
        let files = ca(PathBuf::from("/ca.pem"));
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_700_000_000));
        let said = |fault| why(&rustls::Error::InvalidCertificate(fault), &files);
        assert_eq!(
            said(CertificateError::ExpiredContext { time: at, not_after: at }),
            "the server's certificate has expired, on 2023-11-14T22:13:20Z"
        );
        let expected = rustls::pki_types::ServerName::try_from("a.example").unwrap();
        let presented = vec!["DnsName(\"b.example\")".to_owned(), "IpAddress(127.0.0.1)".to_owned()];
        assert_eq!(
            said(CertificateError::NotValidForNameContext { expected, presented }),
            "the server's certificate is for `b.example`, `127.0.0.1`, and not for `a.example`"
        );
        assert!(said(CertificateError::UnknownIssuer).contains("nobody in `/ca.pem`"));
    }
}
