//! Adapters in requests: which there are, what a video keeps of them, and what is refused.

use std::sync::{Arc, Mutex};

use api::{Adapter, BoxFuture, OfferAdapters};
use axum::http::Method;
use queue::KeyLimits;
use serde_json::{Value, json};

use crate::world::{Answer, World};

/// A folder that the test changes. `large` fits no model but the 5B.
struct Shelf(Mutex<Vec<Adapter>>);

impl OfferAdapters for Shelf {
    fn adapters<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Vec<Adapter>> {
        let mut adapters = self.0.lock().unwrap().clone();
        if model.contains("2b") {
            let large = adapters.iter_mut().filter(|adapter| adapter.name == "large");
            large.for_each(|adapter| adapter.sha256 = Err("made for 3072 features".to_owned()));
        }
        Box::pin(async move { adapters })
    }
}

impl Shelf {
    fn put(&self, name: &str, sha256: Result<String, String>) {
        let mut adapters = self.0.lock().unwrap();
        adapters.retain(|adapter| adapter.name != name);
        adapters.push(Adapter { name: name.to_owned(), sha256 });
    }

    fn remove(&self, name: &str) {
        self.0.lock().unwrap().retain(|adapter| adapter.name != name);
    }
}

fn digest(of: &str) -> String {
    of.repeat(32)
}

async fn world() -> (World, Arc<Shelf>) {
    let shelf = Arc::new(Shelf(Mutex::default()));
    shelf.put("large", Ok(digest("11")));
    shelf.put("motion", Ok(digest("22")));
    shelf.put("style", Ok(digest("33")));
    shelf.put("torn", Err("not a whole safetensors file".to_owned()));
    let adapters = Arc::clone(&shelf);
    let world = World::custom(KeyLimits::default(), |state| state.adapters = Some(adapters)).await;
    (world, shelf)
}

fn two() -> Value {
    json!([{ "name": "motion", "scale": 0.8 }, { "name": "style" }])
}

fn two_shown() -> Value {
    json!([
        { "name": "motion", "scale": 0.8, "sha256": digest("22") },
        { "name": "style", "scale": 1.0, "sha256": digest("33") },
    ])
}

async fn ask(world: &World, lora: Value) -> Answer {
    world.post_json(json!({ "prompt": "a cat", "lora": lora })).await
}

#[tokio::test]
async fn several_at_once_come_in_json_and_in_a_form_and_stand_in_the_row() {
    let (world, _) = world().await;
    let answer = ask(&world, two()).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["lora"]), (200, &two_shown()), "{}", answer.text());
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("prompt", "a cat")
        .append_pair("lora", &two().to_string())
        .finish();
    let answer = world.post("application/x-www-form-urlencoded", form).await;
    assert_eq!(answer.json()["lora"], two_shown(), "{}", answer.text());
    let row = world.claim().await.video;
    let kept: Vec<_> =
        row.params.lora.iter().map(|lora| (lora.name.as_str(), lora.scale, lora.sha256.as_str())).collect();
    assert_eq!(kept, [("motion", 0.8, digest("22").as_str()), ("style", 1.0, digest("33").as_str())]);
    assert_eq!(ask(&world, json!([])).await.json()["lora"], json!([]));
}

#[tokio::test]
async fn each_fault_is_refused_with_its_field() {
    let (world, _) = world().await;
    let nine: Vec<_> = (0..9).map(|n| json!({ "name": n.to_string() })).collect();
    for (lora, code, param, words) in [
        (json!("motion"), "invalid_type", "lora", "a list of objects, found the string"),
        (json!({ "name": "motion" }), "invalid_type", "lora", "found an object"),
        (json!(["motion"]), "invalid_type", "lora[0]", "an object, found the string 'motion'"),
        (json!([{}]), "missing_required_parameter", "lora[0].name", "must be given"),
        (json!([{ "name": 1 }]), "invalid_type", "lora[0].name", "must be a string"),
        (json!([{ "name": "motion", "scale": "1" }]), "invalid_type", "lora[0].scale", "must be a number"),
        (
            json!([{ "name": "motion", "weight": 1 }]),
            "unknown_parameter",
            "lora[0].weight",
            "not a parameter",
        ),
        (
            json!([{ "name": "motion", "scale": 10.5 }]),
            "invalid_lora",
            "lora[0].scale",
            "-10 and 10, found 10.5",
        ),
        (
            json!([{ "name": "motion" }, { "name": "motion", "scale": 2 }]),
            "invalid_lora",
            "lora[1].name",
            "'motion' stands before",
        ),
        (json!(nine), "invalid_lora", "lora", "at most 8 adapters, found 9"),
        (
            json!([{ "name": "style" }, { "name": "../motion" }]),
            "unknown_lora",
            "lora[1].name",
            "for the model 'cogvideox-2b' there are: motion, style",
        ),
        (json!([{ "name": "large" }]), "unsupported_lora", "lora[0].name", "made for 3072 features"),
        (json!([{ "name": "torn" }]), "unsupported_lora", "lora[0].name", "not a whole safetensors file"),
    ] {
        let answer = ask(&world, lora.clone()).await;
        answer.assert_refused(400, code);
        let error = answer.error();
        assert_eq!(error["param"], param, "{lora}");
        assert!(error["message"].as_str().unwrap().contains(words), "{}\nlacks: {words}", error["message"]);
    }
    assert_eq!(world.queue.counts().await.unwrap().queued, 0);
    let without = World::new().await;
    let answer = ask(&without, two()).await;
    answer.assert_refused(400, "unsupported_parameter");
    assert_eq!(answer.error()["param"], "lora");
    assert_eq!(ask(&without, json!([])).await.status, 200);
}

#[tokio::test]
async fn what_is_offered_is_what_fits_now() {
    let (world, shelf) = world().await;
    let offered = async || {
        let capabilities = world.get("/v1/capabilities").await.json();
        let models = world.get("/v1/models").await.json();
        let one = world.get("/v1/models/cogvideox-2b").await.json();
        assert_eq!(capabilities["models"][0]["lora"], models["data"][0]["lora"]);
        assert_eq!(one["lora"], models["data"][0]["lora"]);
        (models["data"][0]["lora"].clone(), models["data"][1]["lora"].clone())
    };
    assert_eq!(offered().await, (json!(["motion", "style"]), json!(["large", "motion", "style"])));
    shelf.remove("motion");
    shelf.put("torn", Ok(digest("44")));
    assert_eq!(offered().await, (json!(["style", "torn"]), json!(["large", "style", "torn"])));
}

#[tokio::test]
async fn another_try_and_a_remix_have_the_same_adapters_or_are_refused() {
    let (world, shelf) = world().await;
    let id = ask(&world, two()).await.json()["id"].as_str().unwrap().to_owned();
    let claim = world.claim().await;
    world.complete(&claim, b"an mp4").await;
    let retry = async || world.call(Method::POST, &format!("/v1/videos/{id}/retry")).await;
    let remix = async || {
        let body = Some(json!({ "prompt": "a dog" }));
        world.ask(Method::POST, &format!("/v1/videos/{id}/remix"), &[], body).await
    };
    assert_eq!(retry().await.json()["lora"], two_shown());
    assert_eq!(remix().await.json()["lora"], two_shown());
    shelf.put("style", Ok(digest("55")));
    for answer in [retry().await, remix().await] {
        answer.assert_refused(400, "lora_changed");
        assert!(answer.text().contains("'style' is another file"), "{}", answer.text());
    }
    shelf.remove("style");
    retry().await.assert_refused(400, "unknown_lora");
}

#[tokio::test]
async fn a_repeated_request_is_known_by_its_adapters_too() {
    let (world, shelf) = world().await;
    let key = [("idempotency-key", "order-7")];
    let make = async |lora: Value| {
        let body = Some(json!({ "prompt": "a cat", "lora": lora }));
        world.ask(Method::POST, "/v1/videos", &key, body).await
    };
    let first = make(two()).await.json();
    // Told apart by what was asked for, and answered even when that is gone.
    shelf.remove("motion");
    let spelled_out = json!([{ "scale": 0.8, "name": "motion" }, { "name": "style", "scale": 1.0 }]);
    let again = make(spelled_out).await;
    assert_eq!((again.header("idempotent-replayed"), &again.json()["id"]), ("true", &first["id"]));
    for other in [json!([{ "name": "motion", "scale": 0.7 }, { "name": "style" }]), json!([])] {
        make(other).await.assert_refused(422, "idempotency_key_reuse");
    }
}
