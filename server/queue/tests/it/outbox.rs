//! The webhooks' outbox: an end and its delivery are one, and a delivery is due until somebody says otherwise.

use queue::{DeliveryOutcome, EventKind, NewVideo, Outbox, Owner};

use crate::bench::{Bench, OPTIONS, START_MS, new_video};

fn told(prompt: &str) -> NewVideo {
    NewVideo { webhook_url: Some("https://example.org/hook".into()), ..new_video(prompt) }
}

#[tokio::test]
async fn each_end_is_to_be_told_once_and_nothing_else_is() {
    let bench = Bench::with(queue::QueueOptions { max_attempts: 1, ..OPTIONS }).await;
    let owner = Owner::unique();
    let mut expected = Vec::new();
    for kind in [EventKind::Completed, EventKind::Failed, EventKind::Cancelled] {
        let id = bench.put(told("a")).await.id;
        let claim = bench.claim(&owner).await;
        bench.queue.requeue(&claim.lease).await.unwrap();
        match kind {
            EventKind::Completed => bench.complete(&bench.claim(&owner).await).await,
            EventKind::Failed => {
                bench.claim(&owner).await;
                bench.queue.rescue(&Owner::unique()).await.unwrap();
            }
            _ => drop(bench.queue.request_cancel(id, None).await.unwrap()),
        }
        bench.queue.delivery_added().await;
        expected.push((id, kind));
    }
    bench.enqueue("nobody asks").await;
    bench.complete(&bench.claim(&owner).await).await;

    let due = bench.queue.due_deliveries(10).await.unwrap();
    let mut got: Vec<_> = due.iter().map(|delivery| (delivery.video_id, delivery.kind)).collect();
    got.sort_by_key(|(id, _)| *id);
    assert_eq!(got, expected);
    for delivery in &due {
        let event = bench.events(delivery.video_id).await.pop().unwrap();
        assert_eq!((event.seq, event.kind), (delivery.event_seq, delivery.kind));
        assert_eq!((delivery.url.as_str(), delivery.created_at_ms), ("https://example.org/hook", START_MS));
    }
    bench.queue.expire_oldest(u64::MAX).await.unwrap();
    for (id, _) in expected {
        bench.queue.delete(id, None).await.unwrap();
    }
    assert_eq!(bench.queue.due_deliveries(10).await.unwrap(), due, "to expire or be deleted is no end");
}

#[tokio::test]
async fn a_delivery_is_tried_again_when_it_is_due_until_it_arrives_or_is_given_up() {
    let bench = Bench::new().await;
    for prompt in ["arrives", "never does"] {
        let id = bench.put(told(prompt)).await.id;
        bench.queue.request_cancel(id, None).await.unwrap();
        bench.clock.advance_ms(10);
    }
    let due = bench.queue.due_deliveries(1).await.unwrap();
    assert_eq!(due.len(), 1, "the limit holds");
    let (first, second) = (due[0].event_seq, bench.queue.due_deliveries(2).await.unwrap()[1].event_seq);
    assert!(first < second, "the longest due first");

    let failed = |retry_in_ms| DeliveryOutcome::Failed { error: "HTTP 500".into(), retry_in_ms };
    bench.queue.settle_delivery(first, failed(Some(5_000))).await.unwrap();
    bench.queue.settle_delivery(second, failed(None)).await.unwrap();
    assert_eq!(bench.queue.outbox().await.unwrap(), Outbox { pending: 1, due_in_ms: Some(5_000) });
    assert!(bench.queue.due_deliveries(10).await.unwrap().is_empty());

    let bench = bench.kill_and_reopen().await;
    bench.clock.advance_ms(5_000);
    let again = bench.queue.due_deliveries(10).await.unwrap();
    assert_eq!((again.len(), again[0].event_seq, again[0].attempts), (1, first, 1));
    bench.queue.settle_delivery(first, DeliveryOutcome::Delivered).await.unwrap();
    assert_eq!(bench.queue.outbox().await.unwrap(), Outbox { pending: 0, due_in_ms: None });

    // Settled ones are forgotten with age; one that is still to be made never is.
    let id = bench.put(told("pending")).await.id;
    bench.queue.request_cancel(id, None).await.unwrap();
    bench.queue.prune(i64::MAX).await.unwrap();
    assert_eq!(bench.queue.outbox().await.unwrap().pending, 1);
}

#[tokio::test]
async fn who_only_hears_of_a_killed_server_is_told_by_the_next() {
    let bench = Bench::new().await;
    let id = bench.put(told("a")).await.id;
    bench.queue.request_cancel(id, None).await.unwrap();
    let taken = bench.queue.due_deliveries(10).await.unwrap();
    let bench = bench.kill_and_reopen().await;
    assert_eq!(bench.queue.due_deliveries(10).await.unwrap(), taken);
}
