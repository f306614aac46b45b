//! Signatures, what a receiver sees, and what its answers mean.

use std::time::Duration;

use outbound::{
    Delivery, Error, Event, Limits, Policy, Result, Secret, WebhookSecret, WebhookSender, retry_delay,
};

use crate::stub::{Answer, Stub, all_names_are_local, free_port};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PATIENT: Limits = Limits { connect: Duration::from_secs(20), total: Duration::from_secs(20) };

/// A sender that may call `hooks.test`, on this machine.
pub(crate) fn sender(limits: Limits) -> WebhookSender {
    let policy =
        Policy { allow_http: true, allowed: vec!["hooks.test".parse().unwrap()], ..Policy::default() };
    WebhookSender::new(policy, limits, all_names_are_local()).unwrap()
}

pub(crate) async fn deliver(sender: &WebhookSender, url: &str) -> Result<()> {
    let event = Event {
        id: "evt_0192".to_owned(),
        kind: "video.completed".to_owned(),
        created_at_s: 1_790_000_000,
        video_id: "video_0191".to_owned(),
    };
    let secret = WebhookSecret::parse(SECRET).unwrap();
    sender.deliver(&Delivery { url, secret: &secret, event: &event, sent_at_s: 1_790_000_005 }).await
}

async fn answered(answer: impl Fn() -> Answer + Send + Sync + 'static) -> Result<()> {
    let stub = Stub::serve(move |_| answer()).await;
    deliver(&sender(PATIENT), &format!("http://hooks.test:{}/hook?token=hunter2", stub.port)).await
}

#[test]
fn signatures_are_those_of_the_specification() {
    // The example that the libraries of standardwebhooks.com test themselves with.
    let secret = WebhookSecret::parse(SECRET).unwrap();
    let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn a_signing_secret_is_checked_and_never_shown() {
    for (text, why) in [
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "webhook secret: it does not begin with whsec_"),
        ("whsec_MfKQ*", "webhook secret: what follows whsec_ is not padded Base64"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "webhook secret: what follows whsec_ is not padded Base64"),
        ("whsec_MfKQ", "webhook secret: it holds 3 bytes, expected 24 to 64"),
    ] {
        assert_eq!(WebhookSecret::parse(text).unwrap_err().to_string(), why);
    }
    assert_eq!(format!("{:?}", WebhookSecret::parse(SECRET).unwrap()), "WebhookSecret(..)");
    assert_eq!(format!("{:?}", Secret::from("sk-1".to_owned())), "Secret(..)");
}

#[tokio::test]
async fn a_delivery_is_a_signed_post() {
    let stub = Stub::serve(|_| Answer::status(204)).await;
    let url = format!("http://hooks.test:{}/hook?token=hunter2", stub.port);
    deliver(&sender(PATIENT), &url).await.unwrap();

    let requests = stub.received();
    let [request] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!(request.line(), "POST /hook?token=hunter2");
    assert_eq!(
        request.body,
        concat!(
            r#"{"id":"evt_0192","object":"event","type":"video.completed","created_at":1790000000,"#,
            r#""data":{"id":"video_0191"}}"#
        )
    );
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("webhook-id"), Some("evt_0192"));
    assert_eq!(request.header("webhook-timestamp"), Some("1790000005"));
    let signature =
        WebhookSecret::parse(SECRET).unwrap().sign("evt_0192", 1_790_000_005, request.body.as_bytes());
    assert_eq!(request.header("webhook-signature"), Some(&*signature));
    assert!(request.header("user-agent").unwrap().starts_with("cogvideox-server/"));
}

#[test]
fn a_proxy_in_the_environment_is_not_asked() {
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "webhook::a_delivery_is_a_signed_post"]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"] {
        again.env(name, "http://127.0.0.1:1");
    }
    let output = again.env_remove("no_proxy").env_remove("NO_PROXY").output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && stdout.contains("1 passed"), "{stdout}");
}

#[tokio::test]
async fn only_gone_means_never_again() {
    assert!(answered(|| Answer::status(200)).await.is_ok());
    let error = answered(|| Answer::body(410, "gone")).await.unwrap_err();
    assert!(matches!(error, Error::Gone { .. }), "{error}");
    for status in [302, 400, 404, 429, 500] {
        let error = answered(move || Answer::status(status)).await.unwrap_err();
        assert!(matches!(error, Error::Answered { status: s, .. } if s == status), "{error}");
    }
}

#[tokio::test]
async fn an_error_is_one_short_line_without_the_urls_secrets() {
    let stub = Stub::serve(|_| Answer::body(503, "try\r\n\u{1b}[31m  later\u{202e}")).await;
    let url = format!("http://hooks.test:{}/hook?token=hunter2", stub.port);
    let error = deliver(&sender(PATIENT), &url).await.unwrap_err();
    let expected = format!("the webhook receiver at hooks.test:{} answered 503: try [31m later", stub.port);
    assert_eq!(error.to_string(), expected);

    let port = free_port().await;
    let url = format!("http://hooks.test:{port}/hook?token=hunter2");
    let error = deliver(&sender(PATIENT), &url).await.unwrap_err();
    let start = format!("the webhook receiver at hooks.test:{port} could not be reached: ");
    assert!(error.to_string().starts_with(&start), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn no_more_of_a_body_is_read_than_is_told() {
    let error = answered(|| Answer::Endless).await.unwrap_err();
    let Error::Answered { status: 500, excerpt, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*excerpt, format!(": {}", "x".repeat(200)));
}

#[tokio::test]
async fn a_receiver_that_says_nothing_is_left() {
    let stub = Stub::serve(|_| Answer::Silence).await;
    let limits = Limits { total: Duration::from_millis(150), ..PATIENT };
    let error = deliver(&sender(limits), &format!("http://hooks.test:{}/", stub.port)).await.unwrap_err();
    let expected = format!("the webhook receiver at hooks.test:{} did not answer within 150 ms", stub.port);
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn https_is_spoken_where_the_url_says_so() {
    let stub = Stub::serve(|_| Answer::status(200)).await;
    let error = deliver(&sender(PATIENT), &format!("https://hooks.test:{}/", stub.port)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(stub.received().is_empty());
}

#[test]
fn retries_come_later_and_later_and_end() {
    let bases_s = [5, 30, 120, 600, 3600, 21_600, 86_400];
    for (failures, base_s) in (1..).zip(bases_s) {
        let base = Duration::from_secs(base_s);
        let delay = retry_delay(failures, "evt_1").unwrap();
        assert!((base..=base * 6 / 5).contains(&delay), "{failures}: {delay:?}");
        assert_eq!(retry_delay(failures, "evt_1"), Some(delay), "the same event waits the same time");
    }
    assert_ne!(retry_delay(7, "evt_1"), retry_delay(7, "evt_2"));
    for failures in [0, 8, u32::MAX] {
        assert_eq!(retry_delay(failures, "evt_1"), None);
    }
}
