//! Layers of configuration: what wins, and what is refused in which words. The environment is always made up.

use std::{ffi::OsString, path::Path};

use cogvideox_server::config::{Config, DType, DeviceSpec, LoadOptions, LogFormat, MemoryLimit, ModelPath};

fn variables(all: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    all.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn overrides(all: &[(&str, &str)]) -> LoadOptions {
    let overrides = all.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    LoadOptions { file: None, overrides }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn with_file(path: &Path) -> LoadOptions {
    LoadOptions { file: Some(path.to_owned()), overrides: Vec::new() }
}

fn refusal(options: &LoadOptions, environment: &[(&str, &str)]) -> String {
    let message = Config::load(options, variables(environment)).unwrap_err().to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    message
}

#[test]
fn the_defaults_are_safe_and_run_the_demo() {
    let config = Config::load(&LoadOptions::default(), []).unwrap();
    assert!(config.server.address.is_loopback());
    assert_eq!(config.server.port, 8000);
    assert_eq!(config.model.path, ModelPath::Demo);
    assert_eq!(config.model.dtype, DType::Auto);
    assert_eq!(config.model.device, [DeviceSpec::Cpu]);
    assert_eq!(config.video.quality, media::Quality::Standard);
}

#[test]
fn each_layer_wins_over_the_one_before() {
    let file = file(
        "data_dir = '/srv/file'\n[server]\nport = 1001\n[queue]\ncapacity = 11\n[log]\nformat = 'json'\n",
    );
    let environment = variables(&[
        ("COGVIDEOX_SERVER__PORT", "1002"),
        ("COGVIDEOX_QUEUE__CAPACITY", "12"),
        ("COGVIDEOX_MODEL__VAE_TILING", "true"),
        ("PATH", "/bin"),
        ("COGVIDEO", "another program's"),
    ]);
    let options =
        LoadOptions { overrides: vec![("queue.capacity".into(), "13".into())], ..with_file(file.path()) };
    let config = Config::load(&options, environment).unwrap();

    assert_eq!(config.queue.max_attempts.get(), 3, "default");
    assert_eq!(config.data_dir, Path::new("/srv/file"), "file over default");
    assert_eq!(config.log.format, LogFormat::Json, "file over default");
    assert_eq!(config.server.port, 1002, "environment over file");
    assert!(config.model.vae_tiling, "environment over default");
    assert_eq!(config.queue.capacity.get(), 13, "flag over environment");
}

#[test]
fn the_environment_may_name_the_file_and_the_flag_wins() {
    let (first, second) = (file("[server]\nport = 1001\n"), file("[server]\nport = 1002\n"));
    let environment = variables(&[("COGVIDEOX_CONFIG", first.path().to_str().unwrap())]);
    let port = |options: LoadOptions| Config::load(&options, environment.clone()).unwrap().server.port;
    assert_eq!(port(LoadOptions::default()), 1001);
    assert_eq!(port(with_file(second.path())), 1002);
}

#[test]
fn text_is_read_as_the_kind_its_key_has() {
    // A folder that looks like a number stays a folder.
    let config = Config::load(&overrides(&[("model.path", "1500")]), []).unwrap();
    assert_eq!(config.model.path, ModelPath::Folder("1500".into()));
    let config = Config::load(&overrides(&[("model.path", "./demo")]), []).unwrap();
    assert_eq!(config.model.path, ModelPath::Folder("./demo".into()));
}

#[test]
fn a_list_is_taken_from_text_with_commas_or_as_toml() {
    let key = "COGVIDEOX_SERVER__ALLOWED_HOSTS";
    for text in ["a.example, b.example", r#"["a.example", "b.example"]"#] {
        let config = Config::load(&LoadOptions::default(), variables(&[(key, text)])).unwrap();
        assert_eq!(config.server.allowed_hosts, ["a.example", "b.example"], "{text}");
    }
    let none = Config::load(&LoadOptions::default(), variables(&[(key, "")])).unwrap();
    assert!(none.server.allowed_hosts.is_empty());
}

#[test]
fn devices_are_one_or_a_list_in_every_layer() {
    use DeviceSpec::{Cpu, Cuda, CudaPair};
    for (text, expected) in [
        ("'cpu'", vec![Cpu]),
        ("'cuda'", vec![Cuda(0)]),
        ("'cuda:1'", vec![Cuda(1)]),
        ("'cuda:0+cuda:1, cpu'", vec![CudaPair([0, 1]), Cpu]),
        ("'cpu, cpu'", vec![Cpu, Cpu]),
        ("['cuda:0', 'cuda:1', 'cpu']", vec![Cuda(0), Cuda(1), Cpu]),
    ] {
        let file = file(&format!("[model]\ndevice = {text}\n"));
        let config = Config::load(&with_file(file.path()), []).unwrap();
        assert_eq!(config.model.device, expected, "{text}");
        let printed = self::file(&config.to_toml().unwrap());
        assert_eq!(Config::load(&with_file(printed.path()), []).unwrap(), config, "{text}");
        let bare = text.trim_matches('\'');
        let variables = variables(&[("COGVIDEOX_MODEL__DEVICE", bare)]);
        assert_eq!(
            Config::load(&LoadOptions::default(), variables).unwrap().model.device,
            expected,
            "{text}"
        );
    }
}

#[test]
fn unknown_keys_are_named_with_their_layer() {
    let file = file("[server]\nprot = 9000\n");
    assert_eq!(
        refusal(&with_file(file.path()), &[]),
        format!("unknown configuration key server.prot in file {}", file.path().display())
    );
    assert_eq!(
        refusal(&LoadOptions::default(), &[("COGVIDEOX_SERVER_PORT", "9000")]),
        "unknown configuration key server_port in environment variable COGVIDEOX_SERVER_PORT"
    );
    assert_eq!(
        refusal(&overrides(&[("servers.port", "9000")]), &[]),
        "unknown configuration key servers.port in the command line"
    );
    assert_eq!(
        refusal(&overrides(&[("server.port.number", "9000")]), &[]),
        "unknown configuration key server.port.number in the command line"
    );
}

#[test]
fn wrong_values_are_named_with_key_and_layer() {
    let file = file("[server]\nport = 'http'\n");
    assert_eq!(
        refusal(&with_file(file.path()), &[]),
        format!(
            "configuration key server.port in file {}: expected an integer, found a string",
            file.path().display()
        )
    );
    let one_variable = |name, value| refusal(&LoadOptions::default(), &[(name, value)]);
    assert_eq!(
        one_variable("COGVIDEOX_MODEL__VAE_TILING", "yes"),
        "configuration key model.vae_tiling in environment variable COGVIDEOX_MODEL__VAE_TILING: \
         expected true or false, found \"yes\""
    );
    assert_eq!(
        one_variable("COGVIDEOX_SERVER", "9000"),
        "configuration key server in environment variable COGVIDEOX_SERVER: expected a section, found \"9000\""
    );
    assert_eq!(
        one_variable("COGVIDEOX_MODEL__DTYPE", "f64"),
        "configuration key model.dtype in environment variable COGVIDEOX_MODEL__DTYPE: \
         unknown variant `f64`, expected one of `auto`, `f32`, `f16`, `bf16`, `fp8`, `int8`, `int8-weight-only`"
    );
    for (key, value, said) in [
        ("server.port", "70000", "70000"),
        ("queue.capacity", "0", "nonzero"),
        ("server.address", "localhost", "IP address"),
        ("video.quality", "ultra", "\"compact\", \"standard\" or \"high\", found \"ultra\""),
        ("log.filter", "queue=loud", "filter"),
        ("model.device", "", "expected at least one device, found none"),
        ("limits.delete_wait_seconds", "60", "less than limits.request_timeout_seconds = 60, found 60"),
    ] {
        let message = refusal(&overrides(&[(key, value)]), &[]);
        let start = format!("configuration key {key} in the command line: ");
        assert!(message.starts_with(&start) && message.contains(said), "{message}");
    }
}

#[test]
fn a_device_of_no_known_name_is_refused() {
    for device in ["gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "cpu:0", "cuda:0+cpu", "cuda:1+cuda:1"] {
        let message = refusal(&overrides(&[("model.device", &format!("cpu,{device}"))]), &[]);
        assert!(message.contains("model.device"), "{message}");
        let said = format!("expected cpu, cuda, cuda:NUMBER or cuda:NUMBER+cuda:NUMBER, found {device:?}");
        assert!(message.contains(&said), "{message}");
    }
}

#[test]
fn parts_of_the_model_may_have_gpus_of_their_own() {
    let parts = |device: &str, part: &str| {
        let all = [("model.device", device), ("model.text_encoder_device", part), ("model.vae_device", "")];
        Config::load(&overrides(&all), []).map(|config| (config.model.text_encoder_device, config))
    };
    for (text, expected) in [("", None), ("cuda", Some(0)), ("cuda:2", Some(2))] {
        let (part, config) = parts("cuda:0,cuda:1", text).unwrap();
        assert_eq!(part.0, expected, "{text:?}");
        assert_eq!(config.model.vae_device.0, None);
        let printed = file(&config.to_toml().unwrap());
        assert_eq!(Config::load(&with_file(printed.path()), []).unwrap(), config);
    }
    let key = "configuration key model.text_encoder_device in the command line: expected ";
    let unknown = parts("cuda", "cpu").unwrap_err().to_string();
    assert_eq!(unknown, format!("{key}cuda, cuda:NUMBER or nothing, found \"cpu\""));
    let beside = parts("cuda,cpu", "cuda:1").unwrap_err().to_string();
    assert_eq!(beside, format!("{key}nothing beside model.device = cpu, found \"cuda:1\""));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let message = refusal(&with_file(Path::new("/nowhere/at-all.toml")), &[]);
    assert!(message.starts_with("configuration file /nowhere/at-all.toml: "), "{message}");
    let file = file("[server]\nport = 9000\naddress = \n");
    let message = refusal(&with_file(file.path()), &[]);
    let start = format!("configuration in file {}, line 3: ", file.path().display());
    assert!(message.starts_with(&start), "{message}");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_named() {
    use std::os::unix::ffi::OsStringExt;
    let environment = [("COGVIDEOX_DATA_DIR".into(), OsString::from_vec(vec![0xff]))];
    let error = Config::load(&LoadOptions::default(), environment).unwrap_err();
    assert_eq!(error.to_string(), "environment variable COGVIDEOX_DATA_DIR: expected unicode text");
}

#[test]
fn what_is_printed_can_be_read_back() {
    let options = overrides(&[("model.path", "/models/CogVideoX-5b"), ("model.dtype", "bf16")]);
    let config = Config::load(&options, []).unwrap();
    let printed = file(&config.to_toml().unwrap());
    assert_eq!(Config::load(&with_file(printed.path()), []).unwrap(), config);
}

#[test]
fn a_memory_limit_is_a_number_with_a_unit() {
    for (text, mib) in [("8GiB", 8192), ("500MiB", 500)] {
        assert_eq!(text.parse(), Ok(MemoryLimit { mib }), "{text}");
    }
    for text in ["8", "8GB", "0GiB", "-1GiB", "1.5GiB", "GiB", "4194304GiB"] {
        let refusal = text.parse::<MemoryLimit>().unwrap_err();
        assert!(refusal.ends_with(&format!("as in 8GiB, found {text:?}")), "{refusal}");
    }
}

#[test]
fn further_models_are_sections_of_any_name_in_every_layer() {
    let layer = file("[models.\"CogVideoX1.5-5B\"]\npath = \"/m/1.5\"\ndtype = \"bf16\"\n");
    let options = LoadOptions {
        overrides: vec![("models.CogVideoX1.5-5B.dtype".to_owned(), "f32".to_owned())],
        ..with_file(layer.path())
    };
    let config = Config::load(&options, variables(&[("COGVIDEOX_MODELS__SMALL__PATH", "demo")])).unwrap();
    let large = &config.models["CogVideoX1.5-5B"];
    assert_eq!((&large.path, large.dtype), (&ModelPath::Folder("/m/1.5".into()), Some(DType::F32)));
    assert_eq!((&config.models["small"].path, config.models["small"].dtype), (&ModelPath::Demo, None));

    for (text, words) in [
        ("[models]\nx = \"demo\"\n", "models.x in file"),
        ("[models.x]\n", "missing field `path`"),
        ("[models.x]\npath = 3\n", "models.x.path in file"),
        ("[models.x]\npath = \"demo\"\nsize = \"2\"\n", "unknown field `size`"),
    ] {
        let layer = file(text);
        let error = Config::load(&with_file(layer.path()), []).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("models.x"), "{error}");
    }
}
