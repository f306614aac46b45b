//! URLs at the door, and which addresses are public.

use outbound::{Error, Exception, Policy, check_webhook_url};

fn exceptions(texts: &[&str]) -> Policy {
    Policy { allowed: texts.iter().map(|text| text.parse().unwrap()).collect(), ..Policy::default() }
}

#[test]
fn a_literal_address_that_is_not_public_is_refused_in_every_spelling() {
    let hosts = [
        ("127.0.0.1", "loopback"),
        ("127.1", "loopback"),
        ("0x7f.1", "loopback"),
        ("2130706433", "loopback"),
        ("0177.0.0.1", "loopback"),
        ("localhost", "loopback"),
        ("LOCALHOST.", "loopback"),
        ("a.localhost", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "\"this network\""),
        ("10.255.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.127.255.255", "carrier-grade NAT"),
        ("169.254.169.254", "link-local"),
        ("168.63.129.16", "cloud metadata"),
        ("192.0.0.192", "protocol assignment"),
        ("192.0.2.1", "documentation"),
        ("198.51.100.1", "documentation"),
        ("203.0.113.1", "documentation"),
        ("198.18.0.1", "benchmark"),
        ("198.19.255.255", "benchmark"),
        ("192.88.99.1", "6to4 relay"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.255", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("[::1]", "loopback"),
        ("[::]", "unspecified"),
        ("[fd00:ec2::254]", "private"),
        ("[fe80::1]", "link-local"),
        ("[fec0::1]", "reserved"),
        ("[ff02::1]", "multicast"),
        ("[2001:db8::1]", "documentation"),
        ("[3fff::1]", "documentation"),
        ("[2001:0:102:304::1]", "protocol assignment"),
        ("[2001:2::1]", "protocol assignment"),
        ("[4000::1]", "reserved"),
        ("[::127.0.0.1]", "reserved"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("[::ffff:a9fe:a9fe]", "link-local"),
        ("[64:ff9b::10.0.0.1]", "private"),
        ("[64:ff9b:1::8.8.8.8]", "local NAT64"),
        ("[2002:7f00:1::]", "loopback"),
        ("[2002:c0a8:101::1]", "private"),
        ("[2606:4700::5efe:10.0.0.1]", "private"),
        ("[2606:4700::200:5efe:127.0.0.1]", "loopback"),
    ];
    for (host, expected) in hosts {
        match check_webhook_url(&format!("https://{host}/hook"), &Policy::default()) {
            Err(Error::Forbidden { kind, .. }) => assert_eq!(kind, expected, "{host}"),
            other => panic!("{host}: {other:?}"),
        }
        let policy = Policy { allow_private: true, ..Policy::default() };
        assert!(check_webhook_url(&format!("https://{host}/hook"), &policy).is_ok(), "{host}");
    }
}

#[test]
fn public_addresses_and_names_pass() {
    for host in [
        "8.8.8.8",
        "11.0.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "100.63.255.255",
        "100.128.0.1",
        "223.255.255.255",
        "[2606:4700:4700::1111]",
        "[64:ff9b::8.8.8.8]",
        "[::ffff:8.8.8.8]",
        "[2002:808:808::1]",
        "hooks.example.com",
        "localhost.example.com",
        "notlocalhost",
    ] {
        let url = format!("https://{host}:8443/hook?a=b");
        assert!(check_webhook_url(&url, &Policy::default()).is_ok(), "{host}");
    }
}

#[test]
fn what_is_wrong_with_a_url_is_said() {
    let long = format!("https://example.com/{}", "a".repeat(2048 - 19));
    for (url, why) in [
        ("http://example.com/", "webhook URL: expected https, found http"),
        ("ftp://example.com/", "webhook URL: expected https, found ftp"),
        ("file:///etc/passwd", "webhook URL: expected https, found file"),
        ("/hook", "webhook URL: it is not an absolute URL: relative URL without a base"),
        ("https://", "webhook URL: it is not an absolute URL: empty host"),
        ("https://a:b@example.com/", "webhook URL: a user name and a password do not belong here"),
        ("https://a@example.com/", "webhook URL: a user name and a password do not belong here"),
        (&long, "webhook URL: it has 2049 bytes, at most 2048 are taken"),
        ("https://10.0.0.1/", "10.0.0.1 is at 10.0.0.1, a private address, which is not called from here"),
    ] {
        assert_eq!(check_webhook_url(url, &Policy::default()).unwrap_err().to_string(), why, "{url}");
    }
    assert!(check_webhook_url(&long[..2048], &Policy::default()).is_ok());
    let with_http = Policy { allow_http: true, ..Policy::default() };
    assert!(check_webhook_url("http://example.com/", &with_http).is_ok());
    let error = check_webhook_url("ws://example.com/", &with_http).unwrap_err();
    assert_eq!(error.to_string(), "webhook URL: expected https or http, found ws");
}

#[test]
fn an_exception_lets_through_what_it_names_and_no_more() {
    let policy = exceptions(&["10.1.0.0/16", "192.168.0.7", "fd00::/8", "localhost"]);
    for host in ["10.1.255.1", "[::ffff:10.1.2.3]", "192.168.0.7", "[fd12::1]", "localhost", "LocalHost."] {
        assert!(check_webhook_url(&format!("https://{host}/"), &policy).is_ok(), "{host}");
    }
    for host in ["10.2.0.1", "192.168.0.8", "[fc00::1]", "127.0.0.1", "a.localhost"] {
        let result = check_webhook_url(&format!("https://{host}/"), &policy);
        assert!(matches!(result, Err(Error::Forbidden { .. })), "{host}: {result:?}");
    }
    for text in ["", "10.1", "10.0.0.0/33", "https://a", "a b"] {
        assert!(matches!(text.parse::<Exception>(), Err(Error::Invalid { .. })), "{text}");
    }
    let shown: Vec<_> = policy.allowed.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.1.0.0/16", "192.168.0.7/32", "fd00::/8", "localhost"]);
}
