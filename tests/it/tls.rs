//! A broker that speaks TLS and asks for certificates: who shows none, or trusts somebody else, stays outside.

use std::path::{Path, PathBuf};
use std::time::Duration;

use messaging::NatsSettings;
use messaging::{Connection, RequestClient};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::harness::broker;

/// Files of a certificate authority, and of certificates it has signed.
struct Authority {
    directory: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn found(directory: &Path, name: &str) -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let directory = directory.join(name);
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("ca.pem"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Signs a certificate for whoever is at 127.0.0.1, and returns the files of it and its key.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let parameters =
            CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let files =
            (self.directory.join(format!("{name}.pem")), self.directory.join(format!("{name}-key.pem")));
        std::fs::write(&files.0, certificate.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }
}

/// Whether a service gets in with these settings, and messages with it.
async fn gets_in(settings: &NatsSettings) -> bool {
    let opened = tokio::time::timeout(Duration::from_secs(4), Connection::open(settings, "gateway")).await;
    let Ok(Ok(connection)) = opened else { return false };
    let caller = RequestClient::start(connection).await.unwrap();
    caller.echo(Duration::from_secs(4)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_shows_a_certificate_and_trusts_the_right_authority_gets_in() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, others) =
        (Authority::found(directory.path(), "ours"), Authority::found(directory.path(), "others"));
    let (server, server_key) = ours.sign("server");
    let client = ours.sign("client");
    let stranger = others.sign("stranger");
    // As docs/operations.md has it.
    let plain = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats.conf");
    let text = std::fs::read_to_string(plain).unwrap();
    let passwords = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    std::os::unix::fs::symlink(passwords, directory.path().join("deploy")).unwrap();
    std::fs::write(directory.path().join("nats.conf"), text).unwrap();
    let tls = format!(
        "include \"nats.conf\"\ntls {{\n cert_file: {server:?}\n key_file: {server_key:?}\n ca_file: {:?}\n verify: true\n}}\n",
        ours.ca()
    );
    let file = directory.path().join("nats-tls.conf");
    std::fs::write(&file, tls).unwrap();
    let broker = broker::start_configured(&file, &directory.path().join("nats"), None, &[]).await;

    let user = NatsSettings::at(broker.url()).with_user("gateway", broker::password("gateway"));
    let with = |ca: &Authority, certificate: Option<&(PathBuf, PathBuf)>| {
        let mut settings = user.clone();
        settings.ca = Some(ca.ca());
        (settings.cert, settings.key) = certificate.cloned().unzip();
        settings
    };
    let secure = with(&ours, Some(&client));
    assert!(gets_in(&secure).await);
    let no_certificate = with(&ours, None);
    let strange = with(&ours, Some(&stranger));
    let misled = with(&others, Some(&client));
    let wrong_password = secure.clone().with_user("gateway", "wrong".to_owned());
    for (what, settings) in [
        ("without TLS", user.clone()),
        ("without a certificate", no_certificate),
        ("with another authority's certificate", strange),
        ("trusting another authority", misled),
        ("with a certificate and a wrong password", wrong_password),
    ] {
        assert!(!gets_in(&settings).await, "{what}");
    }
    assert!(gets_in(&secure).await, "the broker is still there");
}
