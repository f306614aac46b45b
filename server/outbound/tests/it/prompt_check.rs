//! Blocklist and hook together.

use std::{path::Path, time::Duration};

use outbound::{Blocklist, Error, Hook, HookConfig, Prompt, PromptCheck, Verdict};
use serde_json::json;

use crate::stub::{Answer, Stub, free_port};

const PROMPT: Prompt<'_> = Prompt {
    prompt: "a dog runs",
    negative_prompt: Some("a bomb"),
    model: "cogvideox-2b",
    api_key_name: Some("ada"),
};

fn check(port: u16, fail_open: bool) -> PromptCheck {
    let config =
        HookConfig { url: format!("http://127.0.0.1:{port}/judge"), timeout: Duration::from_secs(20) };
    let blocklist = Blocklist::parse(Path::new("list"), "# terms\nbomb").unwrap();
    PromptCheck { blocklist: Some(blocklist), hook: Some(Hook::new(&config).unwrap()), fail_open }
}

async fn judged(answer: &'static str) -> Verdict {
    let stub = Stub::serve(move |_| Answer::body(200, answer)).await;
    check(stub.port, false).check(&PROMPT).await
}

#[tokio::test]
async fn without_checks_everything_is_allowed() {
    assert!(matches!(PromptCheck::default().check(&PROMPT).await, Verdict::Allowed));
}

#[tokio::test]
async fn the_hook_is_asked_about_what_the_blocklist_lets_pass() {
    let stub = Stub::serve(|_| Answer::body(200, r#"{"allowed":true,"score":0.1}"#)).await;
    let check = check(stub.port, false);
    let refused = check.check(&Prompt { prompt: "a Bomb", ..PROMPT }).await;
    let Verdict::Refused { reason } = refused else { panic!("{refused:?}") };
    assert_eq!(reason, "the prompt matches line 2 of this server's blocklist");
    assert!(stub.received().is_empty());

    // The negative prompt names a bomb, to have none.
    assert!(matches!(check.check(&PROMPT).await, Verdict::Allowed));
    let requests = stub.received();
    assert_eq!(requests[0].line(), "POST /judge");
    assert_eq!(
        requests[0].json(),
        json!({
            "prompt": "a dog runs", "negative_prompt": "a bomb",
            "model": "cogvideox-2b", "api_key_name": "ada",
        })
    );
}

#[tokio::test]
async fn a_refusal_has_a_reason_of_one_line() {
    for (answer, expected) in [
        (r#"{"allowed":false,"reason":"no\ndogs"}"#, "no dogs"),
        (r#"{"allowed":false,"reason":null}"#, "this server does not allow the prompt"),
        (r#"{"allowed":false}"#, "this server does not allow the prompt"),
    ] {
        let verdict = judged(answer).await;
        let Verdict::Refused { reason } = verdict else { panic!("{verdict:?}") };
        assert_eq!(reason, expected);
    }
}

#[tokio::test]
async fn a_hook_that_gives_no_verdict_is_unavailable_and_its_answer_is_not_repeated() {
    for answer in [r#"{"allowed":"a dog runs"}"#, "{}", "a dog runs", ""] {
        let verdict = judged(answer).await;
        let Verdict::Unavailable(error @ Error::Unusable { .. }) = verdict else { panic!("{verdict:?}") };
        assert!(!error.to_string().contains("dog"), "{error}");
    }
    // A redirect is an answer like any other: the operator's endpoint is where the operator said.
    for status in [201, 307, 403, 500] {
        let stub = Stub::serve(move |_| Answer::redirect(status, "/elsewhere")).await;
        let verdict = check(stub.port, false).check(&PROMPT).await;
        let Verdict::Unavailable(error) = verdict else { panic!("{verdict:?}") };
        assert_eq!(
            error.to_string(),
            format!("the prompt hook at 127.0.0.1:{} answered {status}", stub.port)
        );
        assert_eq!(stub.received().len(), 1);
    }
}

#[tokio::test]
async fn without_a_verdict_the_operator_s_choice_decides() {
    let port = free_port().await;
    let verdict = check(port, false).check(&PROMPT).await;
    assert!(matches!(verdict, Verdict::Unavailable(Error::Unreachable { .. })), "{verdict:?}");
    let verdict = check(port, true).check(&PROMPT).await;
    assert!(matches!(verdict, Verdict::Allowed), "{verdict:?}");
    let verdict = check(port, true).check(&Prompt { prompt: "bomb", ..PROMPT }).await;
    assert!(matches!(verdict, Verdict::Refused { .. }), "the blocklist needs no hook: {verdict:?}");
}
