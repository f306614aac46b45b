//! What a receiver's name and redirects cannot do.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use outbound::{Error, Limits, Policy, Resolver, WebhookSender};

use crate::{
    stub::{Answer, Stub, all_names_are_local},
    webhook::{deliver, sender},
};

fn guarded(allowed: &[&str], resolver: Resolver) -> WebhookSender {
    let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
    let policy = Policy { allow_http: true, allowed, ..Policy::default() };
    WebhookSender::new(policy, Limits::default(), resolver).unwrap()
}

#[tokio::test]
async fn a_name_for_a_private_address_is_not_called() {
    let stub = Stub::serve(|_| Answer::status(200)).await;
    let sender = guarded(&[], all_names_are_local());
    let error = deliver(&sender, &format!("http://public.test:{}/", stub.port)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "public.test is at 127.0.0.1, a loopback address, which is not called from here"
    );
    assert!(stub.received().is_empty());
}

#[tokio::test]
async fn the_machines_own_resolver_works_behind_the_guard() {
    let stub = Stub::serve(|_| Answer::status(200)).await;
    let sender = guarded(&["localhost"], Resolver::system());
    deliver(&sender, &format!("http://localhost:{}/", stub.port)).await.unwrap();
}

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_called() {
    let stub = Stub::serve(|_| Answer::status(200)).await;
    let lookups = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lookups);
    // Whoever asks a second time, as a check apart from the connection would, gets another answer.
    let rebinding = Resolver::new(move |_| {
        let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
        async move { Ok(vec![IpAddr::from(if first { [127, 0, 0, 1] } else { [127, 0, 0, 2] })]) }
    });
    let sender = guarded(&["127.0.0.1"], rebinding);
    let url = format!("http://public.test:{}/", stub.port);
    deliver(&sender, &url).await.unwrap();
    assert_eq!(lookups.load(Ordering::SeqCst), 1);

    let error = deliver(&sender, &url).await.unwrap_err();
    assert!(matches!(error, Error::Forbidden { .. }), "no connection outlives its check: {error:?}");
    assert_eq!(stub.received().len(), 1);
}

#[tokio::test]
async fn of_several_addresses_only_the_allowed_are_called() {
    let stub = Stub::serve(|_| Answer::status(200)).await;
    let both = Resolver::new(|_| async { Ok(vec![[10, 0, 0, 1].into(), Ipv4Addr::LOCALHOST.into()]) });
    deliver(&guarded(&["127.0.0.0/8"], both), &format!("http://public.test:{}/", stub.port)).await.unwrap();
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_not_followed() {
    let inner = Stub::serve(|_| Answer::status(200)).await;
    let port = inner.port;
    for host in ["127.0.0.1", "0x7f.1", "[::ffff:127.0.0.1]", "public.test", "169.254.169.254"] {
        // One hop that is fine, then one that is not.
        let outer = Stub::serve(move |target| match target {
            "/" => Answer::redirect(307, "/second"),
            _ => Answer::redirect(308, &format!("http://{host}:{port}/admin")),
        })
        .await;
        let url = format!("http://hooks.test:{}/", outer.port);
        let error = deliver(&sender(Limits::default()), &url).await.unwrap_err();
        assert!(matches!(error, Error::Forbidden { .. }), "{host}: {error:?}");
        assert_eq!(outer.received().len(), 2, "{host}");
    }
    assert!(inner.received().is_empty());
}

#[tokio::test]
async fn a_redirect_keeps_to_the_rules_for_urls() {
    for (to, why) in [
        ("ftp://hooks.test/", "webhook URL: expected https or http, found ftp"),
        ("http://a:b@hooks.test/", "webhook URL: a user name and a password do not belong here"),
    ] {
        let stub = Stub::serve(move |_| Answer::redirect(307, to)).await;
        let url = format!("http://hooks.test:{}/", stub.port);
        assert_eq!(deliver(&sender(Limits::default()), &url).await.unwrap_err().to_string(), why);
    }
    let stub = Stub::serve(|_| Answer::status(307)).await;
    let url = format!("http://hooks.test:{}/", stub.port);
    let error = deliver(&sender(Limits::default()), &url).await.unwrap_err();
    assert!(error.to_string().ends_with("a redirect without a location"), "{error}");
}

#[tokio::test]
async fn three_redirects_are_followed_with_the_same_post_and_no_fourth() {
    let stub = Stub::serve(|target| match target {
        "/3" => Answer::redirect(307, "/2"),
        "/2" => Answer::redirect(308, "/1"),
        "/1" => Answer::redirect(307, "/0"),
        "/4" => Answer::redirect(307, "/3"),
        _ => Answer::status(200),
    })
    .await;
    let url = |path| format!("http://hooks.test:{}/{path}", stub.port);
    deliver(&sender(Limits::default()), &url(3)).await.unwrap();
    let received = stub.received();
    let lines: Vec<_> = received.iter().map(super::stub::Received::line).collect();
    assert_eq!(lines, ["POST /3", "POST /2", "POST /1", "POST /0"]);
    for request in &received {
        assert_eq!(request.body, received[0].body);
        assert_eq!(request.header("webhook-signature"), received[0].header("webhook-signature"));
        assert_eq!(request.header("referer"), None);
    }
    let error = deliver(&sender(Limits::default()), &url(4)).await.unwrap_err();
    assert!(matches!(error, Error::TooManyRedirects { limit: 3, .. }), "{error:?}");
}
