use proptest::prelude::*;

use super::*;

#[rstest::rstest]
#[case("/")]
#[case("*")]
#[case("//")]
#[case("/a/b;v=1/c")]
#[case("/%E2%82%AC/%61")]
#[case("/...")]
#[case("/.well-known/x")]
#[case("/a..b/..c/d..")]
#[case("/%252e%252e/")]
#[case("/a:b@c,d=e!$&'()*+~")]
fn plain_paths_pass(#[case] path: &str) {
    assert_eq!(check(path), Ok(()));
}

#[rstest::rstest]
#[case("", PathError::NotAbsolute)]
#[case("a", PathError::NotAbsolute)]
#[case("**", PathError::NotAbsolute)]
#[case("/.", PathError::DotSegment)]
#[case("/..", PathError::DotSegment)]
#[case("/a/../b", PathError::DotSegment)]
#[case("/a/./b", PathError::DotSegment)]
#[case("/a/%2e%2E/b", PathError::DotSegment)]
#[case("/a/.%2e", PathError::DotSegment)]
#[case("/a/..;/b", PathError::DotSegment)]
#[case("/a/..;x=y/b", PathError::DotSegment)]
#[case("/a/%2e%2e%3bx/b", PathError::DotSegment)]
#[case("/a%2fb", PathError::EncodedSlash)]
#[case("/a%2Fb", PathError::EncodedSlash)]
#[case("/..%2fb", PathError::EncodedSlash)]
#[case("/a%5cb", PathError::EncodedSlash)]
#[case("/a\\b", PathError::Backslash)]
#[case("/..\\b", PathError::Backslash)]
#[case("/a%00", PathError::Control)]
#[case("/a\0", PathError::Control)]
#[case("/a%0d%0aHost:%20b", PathError::Control)]
#[case("/%7f", PathError::Control)]
#[case("/%", PathError::Percent)]
#[case("/%2", PathError::Percent)]
#[case("/%zz", PathError::Percent)]
#[case("/%u002e", PathError::Percent)]
#[case("/%+2", PathError::Percent)]
#[case("/%c0%ae%c0%ae/", PathError::NotUtf8)]
#[case("/%ff", PathError::NotUtf8)]
fn paths_with_two_readings_are_refused(#[case] path: &str, #[case] error: PathError) {
    assert_eq!(check(path), Err(error));
}

#[rstest::rstest]
#[case("/", "/", Some("/"))]
#[case("/", "/a", Some("/a"))]
#[case("/", "*", Some("*"))]
#[case("/a", "*", None)]
#[case("/orders", "/orders", Some(""))]
#[case("/orders/", "/orders", Some(""))]
#[case("/orders", "/orders/", Some("/"))]
#[case("/orders/", "/orders/1", Some("/1"))]
#[case("/orders/", "/orders2", None)]
#[case("/orders/", "/order", None)]
#[case("/orders/", "/Orders/1", None)]
#[case("/admin", "/%61dmin/x", Some("/x"))]
#[case("/%61dmin", "/admin/x", Some("/x"))]
#[case("/admin", "//admin//x", Some("//x"))]
#[case("/admin", "/admin;v=1/x", Some("/x"))]
#[case("/admin", "/;a/admin", Some(""))]
#[case("/admin", "/%2561dmin", None)]
#[case("/a/b", "/a//b/c", Some("/c"))]
#[case("/a/b", "/a", None)]
#[case("/€", "/%e2%82%ac", Some(""))]
fn a_prefix_ends_at_a_segment(
    #[case] prefix: &str,
    #[case] path: &str,
    #[case] rest: Option<&str>,
) {
    assert_eq!(check(path), Ok(()));
    let prefix = PathPrefix::parse(prefix).unwrap();
    assert_eq!(prefix.strip(path), rest);
    assert_eq!(prefix.matches(path), rest.is_some());
}

#[rstest::rstest]
#[case("/orders/", "/", "/orders/1", "/1")]
#[case("/orders", "/", "/orders", "/")]
#[case("/orders", "/v2/", "/orders/1", "/v2/1")]
#[case("/orders", "/v2", "/orders", "/v2")]
#[case("/", "/v2", "/a", "/v2/a")]
#[case("/", "/", "/a%20b", "/a%20b")]
#[case("/a", "/b", "//a//x", "/b//x")]
fn a_prefix_is_rewritten(
    #[case] prefix: &str,
    #[case] to: &str,
    #[case] path: &str,
    #[case] new: &str,
) {
    let prefix = PathPrefix::parse(prefix).unwrap();
    assert_eq!(prefix.rewrite(path, to).as_deref(), Some(new));
}

#[test]
fn a_wider_prefix_covers_a_narrower_one() {
    let prefix = |text| PathPrefix::parse(text).unwrap();
    assert!(prefix("/").covers(&prefix("/a")));
    assert!(prefix("/a/").covers(&prefix("/a")));
    assert!(prefix("/a").covers(&prefix("/a/b")));
    assert!(!prefix("/a/b").covers(&prefix("/a")));
    assert!(!prefix("/a").covers(&prefix("/ab")));
    assert_eq!(PathPrefix::parse("*"), Err(PathError::NotAbsolute));
    assert_eq!(PathPrefix::parse("/a/../b"), Err(PathError::DotSegment));
}

proptest! {
    #[test]
    fn arbitrary_paths_never_panic(raw in "(/|%2[0-9a-f]|%[0-9a-f]{2}|\\.|;|\\\\|[a-c]|\\PC){0,12}", prefix in "(/[a-c.;%]{0,2}){1,3}") {
        let checked = check(&raw);
        if let Ok(prefix) = PathPrefix::parse(&prefix) {
            if let Some(rest) = prefix.strip(&raw) {
                prop_assert!(raw.ends_with(rest));
                prop_assert!(rest.is_empty() || rest.starts_with('/') || prefix.segments.is_empty());
            }
            if let Some(new) = prefix.rewrite(&raw, "/new/").filter(|_| checked.is_ok() && raw != "*") {
                prop_assert!(new.starts_with("/new"), "{new}");
                prop_assert_eq!(check(&new), Ok(()));
            }
        }
    }

    #[test]
    fn what_passes_stays_inside_its_prefix(tail in "[a-c.%2ef/;]{0,10}") {
        let raw = format!("/in/{tail}");
        if check(&raw).is_ok() {
            // Resolved as a file server would: decoded, parameters cut, dot segments walked.
            let decoded = String::from_utf8(decode(&raw).unwrap().into_owned()).unwrap();
            let mut depth = Vec::new();
            for part in decoded.split('/') {
                match part.split(';').next().unwrap() {
                    "" | "." => {}
                    ".." => { depth.pop(); }
                    name => depth.push(name.to_owned()),
                }
            }
            prop_assert_eq!(depth.first().map(String::as_str), Some("in"));
            prop_assert!(PathPrefix::parse("/in").unwrap().matches(&raw));
        }
    }
}

#[rstest::rstest]
#[case("/", None)]
#[case("*", None)]
#[case("/a//b/%61;x", None)]
#[case("/...", None)]
#[case("/a/./b", Some("/a/b"))]
#[case("/a/../b", Some("/b"))]
#[case("/a/b/..", Some("/a/"))]
#[case("/a/b/.", Some("/a/b/"))]
#[case("/a/%2e%2E/b", Some("/b"))]
#[case("/a%2fb/%2f..", Some("/a/b/"))]
#[case("/a%2F..%2Fb%20c", Some("/b%20c"))]
#[case("/%2561/%2E", Some("/%2561/"))]
fn dot_segments_and_slashes_are_resolved(#[case] path: &str, #[case] expected: Option<&str>) {
    assert_eq!(normalise(path), Ok(expected.map(str::to_owned)));
}

#[rstest::rstest]
#[case("a/..", PathError::NotAbsolute)]
#[case("/..", PathError::DotSegment)]
#[case("/a/../../b", PathError::DotSegment)]
#[case("/%2e%2e%2fb", PathError::DotSegment)]
#[case("/a/..;/b/.", PathError::DotSegment)]
#[case("/a/../b%5cc", PathError::EncodedSlash)]
#[case("/./%00", PathError::Control)]
#[case("/./%", PathError::Percent)]
#[case("/./%ff", PathError::NotUtf8)]
fn what_can_not_be_resolved_is_refused(#[case] path: &str, #[case] error: PathError) {
    assert_eq!(normalise(path), Err(error));
}

proptest! {
    #[test]
    fn what_is_normalised_passes_and_is_not_normalised_again(
        path in "/([a.]|%2[eEfF]|%61|/|;){0,12}"
    ) {
        if let Ok(Some(once)) = normalise(&path) {
            prop_assert_eq!(check(&once), Ok(()));
            prop_assert_eq!(normalise(&once), Ok(None));
        } else if check(&path).is_ok() {
            // what passes as it is stays as it is
            prop_assert_eq!(normalise(&path), Ok(None));
        }
    }
}
