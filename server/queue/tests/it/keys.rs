//! API keys: made once, shown once, and good until revoked, beside a running server.

use std::collections::HashSet;

use queue::{Error, KeyLimits, NewKey, Scope};

use crate::bench::{Bench, START_MS};

fn new_key(name: &str, scopes: &[Scope]) -> NewKey {
    let limits = KeyLimits { max_queued: Some(7), max_running: None, requests_per_minute: Some(60) };
    NewKey { name: name.into(), scopes: scopes.to_vec(), limits }
}

#[tokio::test]
async fn a_key_made_beside_a_server_is_good_there_until_it_is_revoked() {
    let bench = Bench::new().await;
    let (table, server) = (bench.keys().await, bench.queue.api_keys());
    assert!(!server.any().await.unwrap());
    let (made, text) = table.create(new_key("ci", &[Scope::Submit, Scope::Read])).await.unwrap();
    assert!(server.any().await.unwrap());
    assert!(text.starts_with("cvx_") && text.contains(&made.id.to_string()));
    assert_eq!((made.created_at_ms, made.revoked_at_ms), (START_MS, None));
    assert!(made.allows(Scope::Read) && !made.allows(Scope::Admin));

    let known = server.authenticate(&text).await.unwrap().unwrap();
    assert_eq!(known, made);
    assert_eq!(known.limits, new_key("ci", &[]).limits);

    bench.clock.advance_ms(5);
    let revoked = table.revoke("ci").await.unwrap();
    assert_eq!(revoked.revoked_at_ms, Some(START_MS + 5));
    assert_eq!(server.authenticate(&text).await.unwrap(), None);
    assert!(server.any().await.unwrap(), "revoking the last key does not open the door");
    bench.clock.advance_ms(5);
    assert_eq!(table.revoke(&made.id.to_string()).await.unwrap(), revoked, "by its id too, and only once");
    assert_eq!(server.list().await.unwrap(), [revoked]);
}

#[tokio::test]
async fn nothing_but_the_very_text_is_a_key() {
    let bench = Bench::new().await;
    let table = bench.keys().await;
    let (made, text) = table.create(new_key("a", &[Scope::Admin])).await.unwrap();
    assert!(made.allows(Scope::Submit));
    let (other, _) = table.create(new_key("b", &[Scope::Admin])).await.unwrap();
    let secret = text.rsplit('_').next().unwrap();
    let digit = if text.ends_with('0') { '1' } else { '0' };
    for wrong in [
        String::new(),
        "cvx_".into(),
        "cvx__".into(),
        secret.into(),
        format!("cvx_{}", made.id),
        format!("cvx_{}_", made.id),
        format!("cvx_{}_{secret}", other.id),
        format!("{text}0"),
        format!("{}{digit}", &text[..text.len() - 1]),
        text[..text.len() - 1].into(),
        text.to_uppercase(),
        format!(" {text}"),
    ] {
        assert_eq!(table.authenticate(&wrong).await.unwrap(), None, "{wrong}");
    }
    assert!(table.authenticate(&text).await.unwrap().is_some());
    let stored = std::fs::read(bench.path().with_extension("db-wal")).unwrap();
    assert!(!stored.windows(secret.len()).any(|window| window == secret.as_bytes()), "it is nowhere kept");
}

#[tokio::test]
async fn a_name_means_one_key_for_ever() {
    let bench = Bench::new().await;
    let table = bench.keys().await;
    table.create(new_key("ci", &[Scope::Read])).await.unwrap();
    table.revoke("ci").await.unwrap();
    let taken = table.create(new_key("ci", &[Scope::Read])).await;
    assert!(matches!(taken, Err(Error::KeyNameTaken(name)) if name == "ci"));
    for wrong in ["", "two words", "a\n", "ä", &"x".repeat(65)] {
        let refused = table.create(new_key(wrong, &[])).await;
        assert!(matches!(refused, Err(Error::InvalidKeyName(name)) if name == wrong), "{wrong}");
    }
    table.create(new_key(&"x".repeat(64), &[])).await.unwrap();
    assert!(matches!(table.revoke("nobody").await, Err(Error::KeyNotFound(name)) if name == "nobody"));
    assert_eq!(table.list().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_second_writer_and_the_server_take_turns() {
    let bench = Bench::new().await;
    let table = bench.keys().await;
    let maker = tokio::spawn(async move {
        let mut texts = HashSet::new();
        for n in 0..100 {
            texts.insert(table.create(new_key(&format!("k{n}"), &[Scope::Read])).await.unwrap().1);
        }
        texts
    });
    for n in 0..100 {
        bench.enqueue(&n.to_string()).await;
    }
    let texts = maker.await.unwrap();
    assert_eq!(texts.len(), 100);
    for text in texts {
        assert!(bench.queue.api_keys().authenticate(&text).await.unwrap().is_some());
    }
    assert_eq!(bench.queue.counts().await.unwrap().queued, 100);
}
