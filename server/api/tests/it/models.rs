//! What the models take.

use serde_json::json;

use crate::world::{NOTICE, World};

#[tokio::test]
async fn a_model_says_what_it_takes_and_what_it_does_by_default() {
    let world = World::new().await;
    let model = world.get("/v1/models/cogvideox-2b").await.json();
    assert_eq!(
        model,
        json!({
            "id": "cogvideox-2b", "object": "model", "created": 1_722_816_000, "owned_by": "THUDM", "dtype": "f32",
            "supports_image": false, "lora": [], "sizes": ["720x480"], "num_frames": [9, 17, 25, 33, 41, 49],
            "seconds": ["1.125", "2.125", "3.125", "4.125", "5.125", "6.125"], "fps": 8,
            "max_num_inference_steps": 100, "max_prompt_tokens": 226,
            "defaults": {
                "size": "720x480", "num_frames": 49, "seconds": "6.125", "num_inference_steps": 50,
                "guidance_scale": 6.0, "use_dynamic_cfg": false, "scheduler": "ddim",
            },
            "notice": NOTICE,
        })
    );
    let list = world.get("/v1/models").await.json();
    assert_eq!((&list["object"], &list["data"][0]), (&json!("list"), &model));
    assert_eq!(list["data"][1]["id"], "cogvideox-5b-i2v");
}

#[tokio::test]
async fn an_unknown_model_is_404_and_the_known_ones_are_named() {
    let world = World::new().await;
    let answer = world.get("/v1/models/sora-2").await;
    answer.assert_refused(404, "model_not_found");
    assert!(answer.error()["message"].as_str().unwrap().contains("cogvideox-2b, cogvideox-5b-i2v"));
}
