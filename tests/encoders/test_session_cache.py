"""Equal values in a session: cached ones, and followers of a leader that is still in flight."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from contract import WITH_SOUNDS, png, vector_of_png, vector_of_text, vector_of_wav, wav
from http_server import JPEG, LoopbackServer

from clipmill.encoders import Failure, Item, Uri, Vector, load_encoder, unload_all
from clipmill.encoders.testing import read_log
from clipmill.metrics.stats import Stats

LOCAL = {"allow_private_addresses": True}


@pytest.fixture(autouse=True)
def nothing_loaded():
    unload_all()


def codes(outcomes: list) -> list[str | None]:
    return [str(o.code) if isinstance(o, Failure) else "null" if o is None else None for o in outcomes]


def run(items: list[Item], model: str = "fake::dim=8", **options) -> tuple[list, Stats]:
    """Embed items in one session, each in a row of its own."""
    stats = Stats()
    with load_encoder(model, **options).session(stats) as session:
        done = [f for item in items for f in session.push(None, (item,))] + session.flush()
    return [f.outcomes[0] for f in done], stats


def test_equal_values_are_encoded_once_within_and_across_sessions(tmp_path) -> None:
    """While the first is in flight, and after it is done. Hits and misses are counted."""
    model = f"fake::dim=8&log={tmp_path}"
    texts = [f"text {n % 7}" for n in range(50)]
    outcomes, stats = run([Item("text", text) for text in texts], model)
    np.testing.assert_array_equal([o.values for o in outcomes], [vector_of_text(text) for text in texts])
    assert (stats.cache_hits, stats.cache_misses, stats.embedded, stats.rows) == (43, 7, 50, 50)
    assert read_log(tmp_path).batches == [("text", 7)]
    _, stats = run([Item("text", text) for text in texts], model)
    assert (stats.cache_hits, stats.cache_misses, stats.embedded) == (50, 0, 50)
    assert read_log(tmp_path).rows == 7


def test_equal_values_in_one_row(tmp_path) -> None:
    """A row may contain followers of its own values and of earlier rows."""
    rows = [["a", "b", "a", None, "a"], ["b", "c", " ", "c"], ["a"]]
    session = load_encoder(f"fake::dim=8&log={tmp_path}", max_batch_rows=2).session()
    done = [f for n, row in enumerate(rows) for f in session.push(n, [Item("text", t) for t in row])]
    done += session.flush()
    assert [f.token for f in done] == [0, 1, 2]
    for row, finished in zip(rows, done, strict=True):
        for content, outcome in zip(row, finished.outcomes, strict=True):
            if content == "a" or content == "b" or content == "c":
                np.testing.assert_array_equal(outcome.values, vector_of_text(content))
    assert [codes(f.outcomes) for f in done] == [[None, None, None, "null", None], [None, None, "empty", None], [None]]
    assert read_log(tmp_path).rows == 3


@pytest.mark.parametrize("max_batch_rows", [1, 3, 32])
def test_a_long_mixture_has_the_same_vectors_with_and_without_a_cache(max_batch_rows: int) -> None:
    """Texts, images, audio and invalid values, with many repeats: the same with the cache off, too small, and on."""
    makers = [
        *(Item("text", f"text {n}") for n in range(9)),
        *(Item("image", png(n + 1, 2, (n, n, n))) for n in range(9)),
        *(Item("auto", wav(20 + n)) for n in range(5)),
        *(Item("auto", png(n + 1, 2, (n, n, n))) for n in range(3)),
        *(Item("auto", b"words %d" % n, "text/plain") for n in range(3)),
        *(Item("auto", Uri(f"data:text/plain,uri%20{n}")) for n in range(3)),
        Item("text", " "),
        Item("text"),
        Item("image", b"junk"),
        Item("image", np.zeros((2, 2, 3), np.uint8)),
        Item("text", "poison"),
    ]
    items = [makers[n] for n in np.random.default_rng(8).integers(0, len(makers), 600)]
    model = f"{WITH_SOUNDS}&bad=poison"
    results = [
        run(items, model, max_cache_bytes=size, max_batch_rows=max_batch_rows) for size in (0, 2_000, 64 * 2**20)
    ]
    (off, off_stats), (small, small_stats), (on, on_stats) = results
    for cached in (small, on):
        assert codes(cached) == codes(off)
        for found, expected in zip(cached, off, strict=True):
            if isinstance(expected, Vector):
                np.testing.assert_array_equal(found.values, expected.values)
                assert (found.modality, found.media_type) == (expected.modality, expected.media_type)
    assert off_stats.embedded == small_stats.embedded == on_stats.embedded
    assert off_stats.failed == small_stats.failed == on_stats.failed
    assert off_stats.cache_hits == off_stats.cache_misses == 0
    assert on_stats.cache_hits > small_stats.cache_hits > 0


def test_without_a_cache_every_value_is_encoded(tmp_path) -> None:
    outcomes, stats = run([Item("text", "same")] * 10, f"fake::dim=8&log={tmp_path}", max_cache_bytes=0)
    assert codes(outcomes) == [None] * 10
    assert read_log(tmp_path).rows == 10
    assert (stats.cache_hits, stats.cache_misses) == (0, 0)


# --- leaders that fail -----------------------------------------------------------------------------------------------


def test_followers_share_the_failure_of_their_leader(tmp_path) -> None:
    """Each has the reason, and each is counted. Failures are not cached, so later values are tried again."""
    model = f"fake::dim=8&bad=poison&log={tmp_path}"
    items = [Item("text", text) for text in ("poison", "good", "poison", "good", "poison")]
    for times in (1, 2):
        outcomes, stats = run(items, model)
        assert codes(outcomes) == ["encode_failed", None, "encode_failed", None, "encode_failed"]
        assert stats.failed == {"encode_failed": 3}
        assert stats.embedded == 2
        assert sum(rows == 1 for _, rows in read_log(tmp_path).batches) >= times


def test_followers_of_undecodable_content_fail_too() -> None:
    outcomes, stats = run([Item("image", b"no picture")] * 5)
    assert codes(outcomes) == ["undecodable"] * 5
    assert stats.failed == {"undecodable": 5}
    assert all("".join(str(o)) for o in outcomes)


def test_followers_of_micro_batches_that_run_out_of_memory() -> None:
    """Followers get the vectors of leaders that succeed after halving, and the failures of those that never fit."""
    texts = [f"text {n % 12}" for n in range(36)]
    outcomes, stats = run([Item("text", text) for text in texts], "fake::dim=8&max_rows=3", max_batch_rows=12)
    np.testing.assert_array_equal([o.values for o in outcomes], [vector_of_text(text) for text in texts])
    assert stats.out_of_memory_retries > 0 and stats.cache_hits == 24


def test_equal_uris_are_fetched_once() -> None:
    """In flight and later. Followers wait for a slow URI, and no rows are lost or reordered."""
    with LoopbackServer() as server:
        server.files["/other.png"] = (png(4, 5, (6, 7, 8)), "image/png")
        photo, other = (Item("image", Uri(server.url(path))) for path in ("/photo.jpg", "/other.png"))
        items = [photo, other, photo, Item("text", "x"), photo, other] * 5
        outcomes, stats = run(items, **LOCAL)
        assert codes(outcomes) == [None] * 30
        np.testing.assert_array_equal(outcomes[1].values, vector_of_png(4, 5, (6, 7, 8)))
        np.testing.assert_array_equal(outcomes[29].values, outcomes[1].values)
        assert {o.modality for o in outcomes[:3]} == {"image"}
        assert stats.cache_hits == 27
        run(items, **LOCAL)
        assert server.counts["/photo.jpg"] == server.counts["/other.png"] == 1


def test_followers_of_a_uri_that_cannot_be_fetched() -> None:
    """All fail with it. The next session fetches it again."""
    with LoopbackServer() as server:
        missing = Item("image", Uri(server.url("/status/404")))
        # in one row, so that the first has not failed yet when the second is pushed
        row = [missing, Item("image", JPEG), missing]
        for times in (1, 2):
            with load_encoder("fake::dim=8", **LOCAL).session(stats := Stats()) as session:
                (done,) = session.push(None, row) + session.flush()
            assert codes(done.outcomes) == ["not_found", None, "not_found"]
            assert stats.failed == {"not_found": 2}
            assert server.counts["/status/404"] == times


def test_the_number_of_followers_of_a_slow_uri_is_limited() -> None:
    """They wait like finished rows, up to the same limit. After that, `push` waits for the slow URI."""
    with LoopbackServer() as server:
        slow = Item("image", Uri(server.url("/slow")))
        session = load_encoder("fake::dim=8", max_batch_rows=2, fetch_timeout_s=1, **LOCAL).session()
        done, waiting = [], 0
        for number in range(100):
            done += session.push(number, (slow,))
            waiting = max(waiting, number + 1 - len(done))
        done += session.flush()
    assert [f.token for f in done] == list(range(100))
    assert {code for f in done for code in codes(f.outcomes)} == {"fetch_failed"}
    assert waiting <= 16 * 2


def test_the_bytes_of_followers_are_limited() -> None:
    """The bytes that their callers hold count as if each were in flight."""
    session = load_encoder("fake::dim=8", max_batch_rows=32, max_batch_bytes=1000).session()
    done, waiting = [], 0
    for number in range(200):
        done += session.push(number, (Item("text", "x" * 500),))
        waiting = max(waiting, number + 1 - len(done))
    done += session.flush()
    assert [f.token for f in done] == list(range(200))
    assert {code for f in done for code in codes(f.outcomes)} == {None}
    assert waiting <= 4


def test_the_bytes_of_waiting_vectors_are_limited() -> None:
    """Cached texts are small but their vectors are larger, so such rows must not pile up behind a slow URI."""
    known = [Item("text", f"text {n}") for n in range(20)]
    with LoopbackServer() as server:
        encoder = load_encoder("fake::dim=512", max_batch_bytes=2**17, fetch_timeout_s=1, **LOCAL)
        encoder.embed_items(known)
        session = encoder.session()
        done, waiting = session.push(-1, [Item("image", Uri(server.url("/slow")))]), 0
        for number in range(100):
            done += session.push(number, known)
            waiting = max(waiting, number + 2 - len(done))
        done += session.flush()
    assert [f.token for f in done] == list(range(-1, 100))
    assert waiting <= 2 * 2**17 // (20 * 512 * 4) + 2


# --- values that are kept apart --------------------------------------------------------------------------------------


def test_trusted_and_untrusted_paths_are_kept_apart(tmp_path) -> None:
    """A path listed by the job's reader is read, and the same path in untrusted data is still refused."""
    path = tmp_path / "picture.png"
    path.write_bytes(png(2, 3, (4, 5, 6)))
    trusted, untrusted = Item("image", Uri(str(path), trusted=True)), Item("image", Uri(str(path)))
    for items in ([trusted, untrusted, trusted], [untrusted, trusted, untrusted]):
        outcomes, _ = run(items)
        assert codes(outcomes) == [None if item.content.trusted else "forbidden_uri" for item in items]


def test_the_same_bytes_as_a_text_and_as_something_else() -> None:
    """The declared media type decides, also for equal bytes."""
    data = png(2, 3, (4, 5, 6))
    items = [Item("auto", b"words", "text/plain"), Item("auto", b"words"), Item("auto", data), Item("audio", data)]
    outcomes, _ = run(items * 2, WITH_SOUNDS)
    assert codes(outcomes) == [None, "undecodable", None, "undecodable"] * 2
    np.testing.assert_array_equal(outcomes[0].values, vector_of_text("words"))
    np.testing.assert_array_equal(outcomes[6].values, vector_of_png(2, 3, (4, 5, 6)))


def test_a_text_that_is_also_a_uri() -> None:
    address = "data:text/plain,abc"
    outcomes, _ = run([Item("text", address), Item("auto", Uri(address))] * 2)
    expected = [vector_of_text(address), vector_of_text("abc")] * 2
    np.testing.assert_array_equal([o.values for o in outcomes], expected)


def test_arrays_are_not_cached() -> None:
    """They may be modified between two calls, which a cache could not notice."""
    array = np.full((2, 3, 3), 10, np.uint8)
    encoder = load_encoder("fake::dim=8")
    before = encoder.embed_images([array])[0]
    array[:] = 20
    after = encoder.embed_images([array])[0]
    np.testing.assert_array_equal(before[2:5], [10] * 3)
    np.testing.assert_array_equal(after[2:5], [20] * 3)


def test_specs_do_not_share_vectors() -> None:
    """Two specs of one model: one normalises, and the other does not."""
    raw = load_encoder("fake::dim=8").embed_texts(["abc"] * 2)
    unit = load_encoder("fake::dim=8", normalize=True).embed_texts(["abc"] * 2)
    np.testing.assert_array_equal(raw, [vector_of_text("abc")] * 2)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)


def test_truncation_is_flagged_and_counted_for_every_equal_text() -> None:
    outcomes, stats = run([Item("text", "word " * 80), Item("text", "short")] * 3)
    assert [o.truncated for o in outcomes] == [True, False] * 3
    assert stats.truncated_texts == 3
    outcomes, stats = run([Item("text", "word " * 80)])
    assert outcomes[0].truncated and stats.truncated_texts == 1


def test_equal_audio_files(tmp_path) -> None:
    outcomes, _ = run([Item("audio", wav(50)), Item("audio", wav(60))] * 3, f"{WITH_SOUNDS}&log={tmp_path}")
    np.testing.assert_array_equal([o.values for o in outcomes], [vector_of_wav(50), vector_of_wav(60)] * 3)
    assert read_log(tmp_path).rows == 2


# --- precomputed vectors ---------------------------------------------------------------------------------------------


def test_precomputed_vectors_are_passed_through(tmp_path) -> None:
    """In order, between embedded values. They are counted as given, not as embedded."""
    given = Vector(np.array([1.0, 2, 3], np.float32))
    items = [Item("auto", given), Item("text", "x"), Item("auto", given), Item("text", " ")]
    outcomes, stats = run(items, f"fake::dim=8&log={tmp_path}")
    assert outcomes[0] is given and outcomes[2] is given
    assert codes(outcomes) == [None, None, None, "empty"]
    assert (stats.given, stats.embedded, stats.failed) == (2, 1, {"empty": 1})
    assert read_log(tmp_path).rows == 1


def test_sessions_in_several_threads_share_the_cache(tmp_path) -> None:
    """Every thread gets the right vectors. A value that is new to several threads may be encoded once by each."""
    encoder = load_encoder(f"fake::dim=8&log={tmp_path}", max_batch_rows=5)
    texts = [f"text {n}" for n in range(40)]
    expected = np.stack([vector_of_text(text) for text in texts])
    wrong = []

    def work() -> None:
        for _ in range(5):
            if not np.array_equal(encoder.embed_texts(texts), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == []
    assert 40 <= read_log(tmp_path).rows <= 6 * 40
    before = read_log(tmp_path).rows
    encoder.embed_texts(texts)
    assert read_log(tmp_path).rows == before
