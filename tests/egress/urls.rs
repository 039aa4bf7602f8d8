//! URLs and names: what is refused, what must not be.

use portcullis::{egress::EgressPolicy, net::Target};

use crate::{PUBLIC, block_on, builder, run, sock};

fn reason(url: &str) -> &'static str {
    let verdict = block_on(run(&EgressPolicy::default(), url, &[PUBLIC]));
    assert_eq!(verdict.reason == "ok", !verdict.dialled.is_empty(), "{url}: {verdict:?}");
    verdict.reason
}

#[test]
fn good_urls_are_not_refused() {
    let long_label = format!("http://{}.example.com/", "a".repeat(63));
    let long_name = format!("http://{}{}.com/", "abcdefg.".repeat(31), "b");
    let long_name_dot = format!("http://{}{}.com./", "abcdefg.".repeat(31), "b");
    let long_url = format!("http://example.com/?q={}", "x".repeat(8000));
    for url in [
        "http://example.com",
        "http://example.com/",
        "https://example.com/",
        "HTTP://EXAMPLE.COM/",
        "http://Example.Com./",
        "https://www.example.com:443/",
        "http://example.com:80/",
        "http://example.com:/",
        "http://example.com:8080/",
        "https://example.com:8443/",
        "http://example.com:1024/",
        "http://example.com:65535/",
        "http://example.com:08080/",
        "http://example.com:3000/",
        "http://example.com:5000/",
        "http://example.com:9000/",
        "https://example.com:80/",
        "http://example.com:443/",
        "ws://example.com/socket",
        "wss://example.com/socket?x=1",
        "wss://example.com:9443/",
        // names with harmless labels
        "http://localnews.com/",
        "http://globallocalmarket.com/",
        "http://lan.example.com/",
        "http://metadata.example.com/",
        "http://internal.example.com/",
        "http://local.example.com/",
        "http://localhost.example.com/",
        "http://intranet.example.com/",
        "http://mylocalhost.com/",
        "http://internals.rust-lang.org/",
        "http://internal.com/",
        "http://private.com/",
        "http://corp.com/",
        "http://homepage.net/",
        "http://home.pl/",
        "http://test.de/",
        "http://testing.io/",
        "http://onion.com/",
        "http://invalid.net/",
        "http://svc.example.org/",
        "http://alt.net/",
        "http://lan.org/",
        "http://example.example/",
        "http://foo.example/",
        "http://localhost.run/",
        "http://international.international/",
        "http://a.localize.dev/",
        "http://x.homes/",
        "http://x.corporation.com/",
        "http://kubernetes.default.svc.example.com/",
        "http://metadata.google.internal.example.com/",
        "http://packet.net/",
        // underscores, hyphens, digits, long top-level domains
        "http://_dmarc.example.com/",
        "http://foo_bar.example.com/",
        "http://a--b.example.com/",
        "http://r3---sn-4g5e6nsz.example.com/",
        "http://-a.example.com/",
        "http://a-.example.com/",
        "http://123.example.com/",
        "http://1.2.3.4.example.com/",
        "http://0x7f.example.com/",
        "http://127.0.0.1.nip.io/",
        "http://10.example.com/",
        "http://1e100.net/",
        "http://x.photography/",
        "http://x.travelersinsurance/",
        "http://x.xn--vermgensberatung-pwb/",
        "http://t.co/",
        "http://a.bc/",
        "http://3com.com/",
        "http://0.pool.ntp.org/",
        // IDN
        "http://bücher.example/",
        "http://xn--bcher-kva.example/",
        "http://XN--BCHER-KVA.example/",
        "http://faß.de/",
        "http://münchen.de/",
        "http://例え.jp/",
        "http://例子.测试.com/",
        "http://пример.рф/",
        "http://مثال.com/",
        "http://☃.net/",
        "http://ñandú.cl/",
        "http://example。com/",
        "http://ｅｘａｍｐｌｅ.com/",
        "http://b%C3%BCcher.example/",
        "http://ex%61mple.com/",
        "http://i❤.ws/",
        "http://ไทย.com/",
        "http://straße.de/",
        "http://ελλάδα.gr/",
        "http://日本語.jp/",
        "http://xn--fsqu00a.xn--0zwm56d.com/",
        "http://xn--p1ai.com/",
        // addresses
        "http://8.8.8.8/",
        "http://8.8.8.8.:8080/",
        "http://134744072/",
        "http://0x08080808/",
        "http://[2606:4700:4700::1111]/",
        "https://[2606:4700:4700::1111]:8443/x",
        "http://[2606:4700:4700:0:0:0:0:1111]/",
        "http://[2606:4700:4700::1.1.1.1]/",
        "http://[::ffff:8.8.8.8]/",
        "http://[::FFFF:808:808]/",
        "http://[64:ff9b::8.8.8.8]/",
        "http://[2A00:1450::1]/",
        // paths and queries
        "http://example.com?q",
        "http://example.com/?",
        "http://example.com/a/../b/./c",
        "http://example.com/%2e%2e/",
        "http://example.com//",
        "http://example.com/a b",
        "http://example.com/ü?ü=ü",
        "http://example.com/?a=b&c=d;e=f",
        "http://example.com/?q=<>\"{}|^`",
        "http://example.com/?url=http://127.0.0.1/",
        "http://example.com/http://127.0.0.1/",
        "http://example.com/?q=%00",
        "http://example.com/%zz",
        "http://example.com/?q=a@b:c",
        "http://example.com/@127.0.0.1/",
        "http://example.com/a\\b",
        "http://example.com/~user/!$&'()*+,;=:@",
        "http://example.com/?q='[]",
        "http://example.com/a[1]",
        "http://example.com/?email=user@localhost",
        "http://example.com/path;v=1",
        "https:/example.com/one-slash",
        &long_label,
        &long_name,
        &long_name_dot,
        &long_url,
    ] {
        assert_eq!(reason(url), "ok", "{url}");
        let target = Target::parse(url).unwrap();
        assert_eq!(Target::parse(&target.to_string()).as_ref(), Ok(&target), "{url}");
    }
}

#[test]
fn texts_that_are_no_target() {
    let too_long = format!("http://example.com/{}", "x".repeat(8192));
    let label = format!("http://{}.com/", "a".repeat(64));
    let name = format!("http://{}com/", "a.".repeat(126));
    for url in [
        "",
        " ",
        "/",
        "//example.com/",
        "example.com",
        "example.com:443",
        "http",
        "http:",
        "http:/",
        "http://",
        "http:///",
        "http:////example.com/",
        "http:example.com",
        "http:\\\\example.com",
        "http:/\\example.com/",
        "http://?",
        "http://#",
        "http:///etc/passwd",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_",
        "dict://127.0.0.1/",
        "ldap://x/",
        "jar:http://x!/",
        "data:text/html,x",
        "javascript:alert(1)",
        "blob:http://example.com/x",
        "unix:/var/run/docker.sock",
        "http+unix://%2Fvar/",
        "about:blank",
        "tcp://example.com/",
        "httpx://example.com/",
        "http ://example.com/",
        "h\tttp://example.com/",
        " http://example.com/",
        "http://example.com/ ",
        // userinfo
        "http://user@example.com/",
        "http://user:pass@example.com/",
        "http://@example.com/",
        "http://:@example.com/",
        "http://example.com@127.0.0.1/",
        "http://127.0.0.1@example.com/",
        "http://example.com:80@127.0.0.1/",
        "http://a@b@127.0.0.1/",
        "http://example.com%40127.0.0.1/",
        // characters that end or split a host somewhere else
        "http://example.com\\@127.0.0.1/",
        "http://example.com\\.internal/",
        "http://127.0.0.1\\@example.com/",
        "http://example.com#@127.0.0.1/",
        "http://example.com%23@127.0.0.1/",
        "http://127.0.0.1%00.example.com/",
        "http://127.0.0.1%09/",
        "http://127.0.0.1%20/",
        "http://127.0.0.1%2f@example.com/",
        "http://exam\tple.com/",
        "http://exam\nple.com/",
        "http://exam\rple.com/",
        "http://example.com/\r\nHost: x",
        "http://exam ple.com/",
        "http://example.com\u{0}/",
        "http://example.com/\u{7f}",
        "http://exa<mple.com/",
        "http://exa>mple.com/",
        "http://exa|mple.com/",
        "http://exa^mple.com/",
        "http://exa%mple.com/",
        "http://exa%5bmple.com/",
        "http://a,b@c.com/",
        // hosts that are none
        "http://[example.com]/",
        "http://[127.0.0.1]/",
        "http://[::1/",
        "http://::1/",
        "http://[::1]x/",
        "http://[::1%25lo]/",
        "http://[fe80::1%eth0]/",
        "http://[::g]/",
        "http://[1::2::3]/",
        "http://[]/",
        "http://[:]/",
        "http://256.1.1.1/",
        "http://1.2.3.4.5/",
        "http://1.2.3.999/",
        "http://0x100000000/",
        "http://4294967296/",
        "http://example.0x7f/",
        "http://09.1.1.1/",
        "http://a.b.3.08/",
        "http://a..example.com/",
        "http://.example.com/",
        "http://example.com../",
        "http://./",
        "http://../",
        "http://xn--/",
        "http://xn--a.com/",
        "http://\u{ad}/",
        "http://\u{fffd}.com/",
        // ports
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:99999999999/",
        "http://example.com:-1/",
        "http://example.com:+80/",
        "http://example.com:80a/",
        "http://example.com: 80/",
        "http://example.com:80:80/",
        "http://[2606::1]:x/",
        "http://example.com:８０/",
        // fragments
        "http://example.com/#frag",
        "http://example.com/#",
        "http://example.com#@127.0.0.1/",
        &too_long,
        &label,
        &name,
    ] {
        assert_eq!(reason(url), "invalid", "{url:?}");
    }
}

#[test]
fn cve_2022_24825_and_the_name_rules_in_every_disguise() {
    let names = [
        "localhost",
        "foo.localhost",
        "printer.local",
        "local",
        "db.internal",
        "internal",
        "app.intranet",
        "intranet",
        "nas.lan",
        "router.home.arpa",
        "home.arpa",
        "ad.corp",
        "corp",
        "nas.home",
        "x.private",
        "x.test",
        "x.invalid",
        "xyz.onion",
        "x.alt",
        "kubernetes.default.svc",
        "x.svc",
        "api.default.svc.cluster.local",
        "metadata.google.internal",
        "metadata.goog",
        "metadata.platformequinix.com",
        "metadata.packet.net",
        "metadata.tencentyun.com",
        "host.docker.internal",
        "gateway.docker.internal",
        "kubernetes",
        "consul",
        "vault",
        "redis",
        "metadata",
        "instance-data",
        "ip6-localhost",
        "localhost.localdomain",
        "instance-data.ec2.internal",
        "ipv4only.arpa",
        "x.resolver.arpa",
        "x.service.arpa",
        "com",
        "_http._tcp.local",
        "a.b.c.d.e.internal",
    ];
    for name in names {
        let upper = name.to_uppercase();
        let mixed: String = name.chars().enumerate().map(|(i, c)| if i % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect();
        let wide: String = name
            .chars()
            .map(|c| if c.is_ascii_lowercase() { char::from_u32(u32::from(c) + 0xfee0).unwrap() } else { c })
            .collect();
        let percent: String = name.bytes().map(|b| if b == b'.' { ".".to_owned() } else { format!("%{b:02x}") }).collect();
        let soft = name.chars().next().map(|c| name.replacen(c, &format!("{c}\u{ad}"), 1)).unwrap();
        let ideographic = name.replace('.', "。");
        for host in [name, &upper, &mixed, &wide, &percent, &soft, &ideographic] {
            for url in [format!("http://{host}/"), format!("https://{host}.:8443/x"), format!("ws://{host}。/")] {
                assert_eq!(reason(&url), "name", "{url}");
            }
        }
    }
}

#[test]
fn cve_2022_29188_brackets_around_a_name() {
    for url in ["http://[example.com]/", "http://[localhost]/", "http://[127.0.0.1]/", "http://[::1].example.com/"] {
        assert_eq!(reason(url), "invalid", "{url}");
    }
}

#[test]
fn ports_by_default_and_bad_ports_always() {
    let everything = builder().ports(["1-65535"]).unwrap().build().unwrap();
    for port in portcullis::egress::BAD_PORTS {
        let url = format!("http://example.com:{port}/");
        assert_eq!(reason(&url), "port", "{url}");
        assert_eq!(block_on(run(&everything, &url, &[PUBLIC])).reason, "port", "{url}");
        assert_eq!(block_on(run(&everything, &format!("http://8.8.8.8:{port}/"), &[])).reason, "port", "{url}");
    }
    for port in [2, 24, 81, 442, 444, 445, 853, 1023] {
        assert_eq!(reason(&format!("http://example.com:{port}/")), "port", "{port}");
        assert_eq!(reason(&format!("http://8.8.8.8:{port}/")), "port", "{port}");
        assert_eq!(block_on(run(&everything, &format!("http://example.com:{port}/"), &[PUBLIC])).reason, "ok", "{port}");
    }
    for port in [1024, 2375, 3306, 6379, 8080, 65535] {
        assert_eq!(reason(&format!("http://example.com:{port}/")), "ok", "{port}");
    }
}

#[test]
fn trap_what_is_dialled_is_what_was_parsed() {
    let p = EgressPolicy::default();
    for (url, want) in [
        ("http://example.com:80/", "93.184.215.14:80"),
        ("https://example.com/", "93.184.215.14:443"),
        ("https://example.com:80/", "93.184.215.14:80"),
        ("ws://example.com/", "93.184.215.14:80"),
        ("wss://example.com/", "93.184.215.14:443"),
        ("http://134744072:8080/", "8.8.8.8:8080"),
        ("http://[::ffff:808:808]:8080/", "8.8.8.8:8080"),
    ] {
        assert_eq!(block_on(run(&p, url, &[PUBLIC])).dialled, [sock(want)], "{url}");
    }
}
