//! A chat model that answers well, badly, or not at all.

use std::time::Duration;

use outbound::{Error, Refiner, RefinerConfig, Result, Secret};
use serde_json::{Value, json};

use crate::stub::{Answer, Stub, free_port};

const KEY: &str = "sk-hunter2";

fn config(port: u16) -> RefinerConfig {
    RefinerConfig {
        base_url: format!("http://127.0.0.1:{port}/v1/"),
        model: "qwen3".to_owned(),
        api_key: Some(Secret::from(KEY.to_owned())),
        system_prompt: None,
        timeout: Duration::from_secs(20),
        max_chars: 40,
        temperature: 0.7,
    }
}

fn completion(content: &Value, finish_reason: &str) -> String {
    let message = json!({"role": "assistant", "content": content});
    json!({"object": "chat.completion", "choices": [{"message": message, "finish_reason": finish_reason}]})
        .to_string()
}

async fn refined(status: u16, body: String) -> Result<String> {
    let stub = Stub::serve(move |_| Answer::body(status, &body)).await;
    Refiner::new(config(stub.port)).unwrap().refine("ein Hund").await
}

#[tokio::test]
async fn a_prompt_comes_back_rewritten() {
    let answer = completion(&json!("A brown dog runs."), "stop");
    let stub = Stub::serve(move |_| Answer::body(200, &answer)).await;
    assert_eq!(
        Refiner::new(config(stub.port)).unwrap().refine("ein Hund").await.unwrap(),
        "A brown dog runs."
    );

    let own =
        RefinerConfig { api_key: None, system_prompt: Some("Be brief.".to_owned()), ..config(stub.port) };
    Refiner::new(own).unwrap().refine("ein Hund").await.unwrap();

    let received = stub.received();
    assert_eq!(received[0].line(), "POST /v1/chat/completions");
    assert_eq!(received[0].header("authorization"), Some("Bearer sk-hunter2"));
    assert_eq!(received[0].header("content-type"), Some("application/json"));
    let mut body = received[0].json();
    let system = body["messages"][0]["content"].take();
    assert!(system.as_str().unwrap().contains("one paragraph of plain English"), "{system}");
    let messages = json!([{"role": "system", "content": null}, {"role": "user", "content": "ein Hund"}]);
    assert_eq!(body, json!({"model": "qwen3", "messages": messages, "temperature": 0.7, "stream": false}));

    assert_eq!(received[1].header("authorization"), None);
    assert_eq!(received[1].json()["messages"][0]["content"], "Be brief.");
}

#[tokio::test]
async fn a_query_of_the_base_url_stays() {
    let answer = completion(&json!("A dog."), "stop");
    let stub = Stub::serve(move |_| Answer::body(200, &answer)).await;
    let base_url = format!("http://127.0.0.1:{}/openai?api-version=1", stub.port);
    Refiner::new(RefinerConfig { base_url, ..config(stub.port) }).unwrap().refine("dog").await.unwrap();
    assert_eq!(stub.received()[0].line(), "POST /openai/chat/completions?api-version=1");
}

#[tokio::test]
async fn what_models_put_around_an_answer_is_taken_away() {
    for (content, expected) in [
        ("  \"A dog\n\nruns.\"\n", "A dog runs."),
        ("\u{201c}A dog runs.\u{201d}", "A dog runs."),
        ("'\"A dog runs.\"'", "A dog runs."),
        ("<think>Dog? \"Yes\".</think>\n\nA dog runs.", "A dog runs."),
        ("\"Sit\", and the dog says \"no\"", "\"Sit\", and the dog says \"no\""),
        ("ééééééééééééééééééééééééééééééééééééééé.", "ééééééééééééééééééééééééééééééééééééééé."),
    ] {
        assert_eq!(refined(200, completion(&json!(content), "stop")).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_prompt_is_refused() {
    let cases = [
        (completion(&json!(""), "stop"), "it is empty"),
        (completion(&json!("\"\""), "stop"), "it is empty"),
        (completion(&json!(null), "stop"), "it is empty"),
        (completion(&json!("<think>A dog, and"), "stop"), "it is empty"),
        (completion(&json!("a".repeat(41)), "stop"), "it has 41 characters, at most 40 are taken"),
        (completion(&json!("A dog and"), "length"), "it was cut off by the endpoint's limit"),
        (json!({"choices": []}).to_string(), "it has no choices"),
        (json!({"error": "dog"}).to_string(), "JSON of another form than expected (line 1, column 15)"),
        ("<html>dog</html>".to_owned(), "no JSON (line 1, column 1)"),
        (" ".repeat(256 * 1024 + 1), "it is longer than 262144 bytes"),
    ];
    for (body, expected) in cases {
        let error = refined(200, body).await.unwrap_err();
        let Error::Unusable { party: "the refiner", why, .. } = &error else { panic!("{error:?}") };
        assert_eq!(why, expected);
    }
}

#[tokio::test]
async fn a_failed_call_names_the_host_and_never_the_key() {
    let echo = format!("Incorrect API key provided: {KEY}");
    let stub = Stub::serve(move |_| Answer::body(500, &echo)).await;
    let refiner = Refiner::new(config(stub.port)).unwrap();
    let answered = refiner.refine("dog").await.unwrap_err();
    assert_eq!(answered.to_string(), format!("the refiner at 127.0.0.1:{} answered 500", stub.port));

    let port = free_port().await;
    let unreachable = Refiner::new(config(port)).unwrap().refine("dog").await.unwrap_err();
    let start = format!("the refiner at 127.0.0.1:{port} could not be reached: ");
    assert!(unreachable.to_string().starts_with(&start), "{unreachable}");

    let stub = Stub::serve(|_| Answer::Silence).await;
    let hasty = RefinerConfig { timeout: Duration::from_millis(150), ..config(stub.port) };
    let late = Refiner::new(hasty).unwrap().refine("dog").await.unwrap_err();
    let expected = format!("the refiner at 127.0.0.1:{} did not answer within 150 ms", stub.port);
    assert_eq!(late.to_string(), expected);

    let shown = format!("{refiner:?} {:?} {answered:?} {unreachable:?} {late:?}", config(1));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("api_key: Some(Secret(..))"), "{shown}");
}

#[test]
fn a_setting_that_cannot_work_is_refused_at_the_start() {
    for (base_url, why) in [
        ("localhost:8000", "refiner base URL: expected http or https, found localhost"),
        ("v1", "refiner base URL: it is not an absolute URL: relative URL without a base"),
        ("http://a:hunter2@b/v1", "refiner base URL: a user name and a password do not belong here"),
    ] {
        let config = RefinerConfig { base_url: base_url.to_owned(), ..config(1) };
        assert_eq!(Refiner::new(config).unwrap_err().to_string(), why);
    }
    let config = RefinerConfig { api_key: Some(Secret::from("hunter2\n".to_owned())), ..config(1) };
    let error = Refiner::new(config).unwrap_err();
    assert_eq!(error.to_string(), "API key: it holds characters that no HTTP header can");
}
