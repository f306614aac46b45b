//! Prompts that are checked and refined on their way, by somebody else.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use api::{BoxFuture, PromptCheck, PromptToCheck, PromptVerdict, RefinePrompt};
use axum::http::Method;
use queue::{KeyLimits, Scope};
use serde_json::json;

use crate::world::{Answer, NOTICE, World};

/// Refuses violence, and remembers what it saw.
#[derive(Default)]
struct Checker(Mutex<Vec<String>>);

impl PromptCheck for Checker {
    fn check<'a>(&'a self, prompt: &'a PromptToCheck<'a>) -> BoxFuture<'a, PromptVerdict> {
        let seen = format!(
            "{}|{}|{}|{}",
            prompt.prompt,
            prompt.negative_prompt,
            prompt.model,
            prompt.api_key_name.unwrap_or("nobody")
        );
        self.0.lock().unwrap().push(seen);
        let verdict = match prompt.prompt {
            "offline" => PromptVerdict::Unavailable,
            text if text.contains("violence") => {
                PromptVerdict::Refused { reason: "the prompt is on line 3 of the list".to_owned() }
            }
            _ => PromptVerdict::Allowed,
        };
        Box::pin(async { verdict })
    }
}

/// Makes more words of few, and counts how often.
#[derive(Default)]
struct Refiner(AtomicU32);

impl RefinePrompt for Refiner {
    fn refine<'a>(&'a self, prompt: &'a str) -> BoxFuture<'a, Result<String, String>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            match prompt {
                "nothing" => Ok(" \n".to_owned()),
                "too much" => Ok("word ".repeat(300)),
                "down" => Err("the refiner did not answer in 10 s".to_owned()),
                "turn" => Ok("violence".to_owned()),
                prompt => Ok(format!("{prompt} in great detail")),
            }
        })
    }
}

async fn world() -> (World, Arc<Checker>, Arc<Refiner>) {
    let (checker, refiner) = (Arc::new(Checker::default()), Arc::new(Refiner::default()));
    let (check, refine) = (checker.clone(), refiner.clone());
    let world = World::custom(KeyLimits::default(), |state| {
        state.prompt_check = Some(check);
        state.refine_prompt = Some(refine);
    })
    .await;
    (world, checker, refiner)
}

async fn refined(world: &World, prompt: &str) -> Answer {
    world.post_json(json!({ "prompt": prompt, "refine_prompt": true })).await
}

#[tokio::test]
async fn a_refused_prompt_makes_no_video_and_says_why() {
    let (world, checker, _) = world().await;
    let answer = world.post_json(json!({ "prompt": "violence", "negative_prompt": "rain" })).await;
    answer.assert_refused(400, "prompt_refused");
    assert_eq!(answer.error()["param"], "prompt");
    assert_eq!(answer.error()["message"], "the prompt is on line 3 of the list");
    assert_eq!(*checker.0.lock().unwrap(), ["violence|rain|cogvideox-2b|nobody"]);

    let answer = world.post_json(json!({ "prompt": "offline" })).await;
    answer.assert_refused(503, "prompt_check_unavailable");
    assert_eq!(answer.header("retry-after"), "15");
    assert_eq!(world.queue.counts().await.unwrap().queued, 0);

    let key = world.key("studio", &[Scope::Submit], KeyLimits::default()).await;
    let authorization = format!("Bearer {key}");
    let headers = [("authorization", authorization.as_str())];
    world.ask(Method::POST, "/v1/videos", &headers, Some(json!({ "prompt": "a cat" }))).await;
    assert_eq!(checker.0.lock().unwrap().last().unwrap(), "a cat||cogvideox-2b|studio");
}

#[tokio::test]
async fn a_remix_and_another_try_are_checked_too() {
    let (world, checker, _) = world().await;
    let id = world.completed(b"an mp4").await;
    let remix = format!("/v1/videos/{id}/remix");
    world
        .ask(Method::POST, &remix, &[], Some(json!({ "prompt": "violence" })))
        .await
        .assert_refused(400, "prompt_refused");
    world.call(Method::POST, &format!("/v1/videos/{id}/retry")).await;
    assert_eq!(checker.0.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_refined_prompt_is_what_the_model_reads() {
    let (world, checker, refiner) = world().await;
    let video = refined(&world, "a cat").await.json();
    assert_eq!(
        (&video["prompt"], &video["refined_prompt"]),
        (&json!("a cat"), &json!("a cat in great detail"))
    );
    assert_eq!(video["prompt_tokens"], 6, "of what the model reads");
    assert_eq!(video["warnings"], json!([NOTICE]));
    assert_eq!(world.claim().await.video.params.prompt, "a cat in great detail");
    let seen: Vec<_> =
        checker.0.lock().unwrap().iter().map(|line| line.split('|').next().unwrap().to_owned()).collect();
    assert_eq!(seen, ["a cat", "a cat in great detail"], "before and after");
    world.post_json(json!({ "prompt": "a cat" })).await;
    assert_eq!(refiner.0.load(Ordering::SeqCst), 1, "only who asks for it");
    refined(&world, "turn").await.assert_refused(400, "prompt_refused");
}

#[tokio::test]
async fn a_prompt_that_is_not_refined_is_used_as_it_is_with_a_warning() {
    for (prompt, why) in [
        ("down", "the refiner did not answer in 10 s"),
        ("nothing", "the refiner came back with nothing"),
        ("too much", "it came to 301 tokens, the model reads 226"),
    ] {
        let (world, ..) = world().await;
        let video = refined(&world, prompt).await.json();
        assert_eq!((&video["prompt"], &video["refined_prompt"]), (&json!(prompt), &json!(null)));
        assert_eq!(video["warnings"], json!([NOTICE, format!("the prompt was not refined: {why}")]));
    }
}

#[tokio::test]
async fn nobody_is_asked_in_vain() {
    let (world, checker, refiner) = world().await;
    let asked = || (checker.0.lock().unwrap().len(), refiner.0.load(Ordering::SeqCst));
    let request = json!({ "prompt": "a cat", "refine_prompt": true });
    let headers = [("idempotency-key", "order-7")];
    let first = world.ask(Method::POST, "/v1/videos", &headers, Some(request.clone())).await;
    assert_eq!(asked(), (2, 1));
    let again = world.ask(Method::POST, "/v1/videos", &headers, Some(request.clone())).await;
    assert_eq!(again.json(), first.json());
    assert_eq!(asked(), (2, 1), "a repeated request is answered as the first was");
    world.post_json(json!({ "prompt": "a cat", "refine_prompt": true, "fps": 7 })).await;
    assert_eq!(asked(), (2, 1), "a field is wrong");
    for _ in 0..2 {
        world.queued("a cat").await;
    }
    world.post_json(request.clone()).await.assert_refused(429, "queue_full");
    assert_eq!(asked(), (4, 1), "the queue is full");
    world.health.send_replace(api::Health::Starting);
    world.post_json(request).await.assert_refused(503, "model_not_ready");
    assert_eq!(asked(), (4, 1));
}
