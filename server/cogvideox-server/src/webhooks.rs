//! The delivery of webhooks: takes what is due from the queue's outbox, lets `outbound` send it, and says how it went.
//!
//! At least once: a delivery that a killed process had under way is made again. Its id is the event's number, so that
//! a receiver can tell.

use std::time::Duration;

use outbound::{Delivery, Error, Event, WebhookSecret, WebhookSender, retry_delay};
use queue::{Clock, DeliveryOutcome, EventKind, Queue, SystemClock};

/// Deliveries that are under way at once.
const BATCH: u32 = 8;
/// How long to wait where the outbox cannot be read, and at the longest.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Delivers until it is dropped.
pub(crate) async fn deliver(queue: Queue, sender: WebhookSender, secret: WebhookSecret) {
    loop {
        match queue.due_deliveries(BATCH).await {
            Ok(due) if due.is_empty() => wait(&queue).await,
            Ok(due) => {
                let attempts = due.iter().map(|delivery| attempt(&queue, &sender, &secret, delivery));
                futures_util::future::join_all(attempts).await;
            }
            Err(error) => {
                tracing::error!(%error, "the webhooks' outbox cannot be read");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

async fn wait(queue: &Queue) {
    let due_in = queue.outbox().await.ok().and_then(|outbox| outbox.due_in_ms).map(Duration::from_millis);
    tokio::select! {
        () = queue.delivery_added() => {}
        () = tokio::time::sleep(due_in.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)) => {}
    }
}

async fn attempt(queue: &Queue, sender: &WebhookSender, secret: &WebhookSecret, due: &queue::Delivery) {
    let event = Event {
        id: format!("evt_{}", due.event_seq),
        kind: kind(due.kind).to_owned(),
        created_at_s: due.created_at_ms.div_euclid(1000),
        video_id: due.video_id.to_string(),
    };
    let sent_at_s = SystemClock.now_ms().div_euclid(1000);
    let delivery = Delivery { url: &due.url, secret, event: &event, sent_at_s };
    let outcome = match sender.deliver(&delivery).await {
        Ok(()) => DeliveryOutcome::Delivered,
        Err(error) => {
            let for_good =
                matches!(error, Error::Gone { .. } | Error::Invalid { .. } | Error::Forbidden { .. });
            let retry = if for_good { None } else { retry_delay(due.attempts + 1, &event.id) };
            tracing::warn!(job.id = event.video_id, %error, retry_in_s = retry.map(|d| d.as_secs()), "webhook not delivered");
            DeliveryOutcome::Failed {
                error: error.to_string(),
                retry_in_ms: retry.map(|delay| delay.as_millis() as i64),
            }
        }
    };
    let result = match &outcome {
        DeliveryOutcome::Delivered => "delivered",
        DeliveryOutcome::Failed { retry_in_ms: Some(_), .. } => "retried",
        DeliveryOutcome::Failed { retry_in_ms: None, .. } => "given_up",
    };
    metrics::counter!("cogvideox_webhook_deliveries_total", "result" => result).increment(1);
    if let Err(error) = queue.settle_delivery(due.event_seq, outcome).await {
        tracing::error!(job.id = event.video_id, %error, "a delivery cannot be noted; it will be made again");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The names that OpenAI's clients know, and one more.
fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Completed => "video.completed",
        EventKind::Cancelled => "video.cancelled",
        _ => "video.failed",
    }
}
