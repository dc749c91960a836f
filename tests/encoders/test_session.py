"""The hot path on the fake encoder: order, micro-batches, isolation of bad rows, memory."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from http_server import LoopbackServer
from pictures import encode, photographs

from clipmill.encoders import Document, EncoderSpec, Failure, Item, Uri, Vector, count_loads, load_encoder, unload_all
from clipmill.encoders.in_flight import Window
from clipmill.encoders.loaded import PixelBudget
from clipmill.encoders.testing import fake_image_vector, fake_text_vector, read_log
from clipmill.errors import ClipmillError, DeviceError, EmbeddingError, WeightsError
from clipmill.metrics.stats import Stats
from clipmill.models.model import Model, Prepared

SMALL = np.full((2, 3, 3), 100, np.uint8)
SOME = np.full((20, 30, 3), 100, np.uint8)
"""More than its vector."""


def _codes(outcomes: list) -> list[str | None]:
    return [str(o.code) if isinstance(o, Failure) else "null" if o is None else None for o in outcomes]


@pytest.mark.parametrize("max_cache_bytes", [0, 2**20], ids=["without-cache", "with-cache"])
def test_rows_come_back_once_and_in_order(max_cache_bytes: int) -> None:
    """Any mixture of texts, images, nulls and failures: n in, n out, in the order of the input."""
    kinds = [
        (Item("text", None), "null"),
        (Item("text", "x"), None),
        (Item("text", " "), "empty"),
        (Item("text", "bad word"), "encode_failed"),
        (Item("image", SMALL), None),
        (Item("image", b"junk"), "undecodable"),
        (Item("image", encode(SMALL)), None),
        (Item("image", Uri("http://0.0.0.0/x")), "forbidden_uri"),
        (Item("auto", Uri("data:text/plain,x")), None),
        (Item("audio", b"RIFF"), "unsupported"),
    ]
    rng = np.random.default_rng(3)
    rows = [[kinds[i] for i in rng.integers(0, len(kinds), rng.integers(0, 4))] for _ in range(300)]
    options = {"max_batch_rows": 7, "fetch_threads": 2, "max_cache_bytes": max_cache_bytes}
    session = load_encoder("fake::dim=4&bad=bad", **options).session()
    done = [f for number, row in enumerate(rows) for f in session.push(number, [item for item, _ in row])]
    done += session.flush()
    assert [finished.token for finished in done] == list(range(300))
    assert [_codes(finished.outcomes) for finished in done] == [[code for _, code in row] for row in rows]


def test_vectors_belong_to_their_rows() -> None:
    """After batching, each row has its own vector."""
    texts = [f"text {n}" * (n % 5 + 1) for n in range(100)]
    vectors = load_encoder("fake::dim=12", max_batch_rows=9).embed_texts(texts)
    np.testing.assert_array_equal(vectors, np.stack([fake_text_vector(t, 12) for t in texts]))
    pictures = list(photographs().values())
    vectors = load_encoder("fake::dim=12", max_batch_rows=2).embed_images([encode(p) for p in pictures])
    np.testing.assert_allclose(vectors, np.stack([fake_image_vector(p, 12) for p in pictures]))


@pytest.mark.parametrize(
    ("limits", "sizes"),
    [
        ({"max_batch_rows": 4}, [4, 4, 2]),
        ({"max_batch_rows": 100, "max_batch_pixels": 5 * 20 * 30}, [5, 5]),
        ({"max_batch_rows": 100, "max_batch_bytes": 3 * SOME.nbytes}, [3, 3, 3, 1]),
    ],
    ids=["rows", "pixels", "bytes"],
)
def test_the_size_of_micro_batches_is_limited(limits: dict, sizes: list[int], tmp_path) -> None:
    """By rows, and by pixels and bytes of the model's input."""
    load_encoder(f"fake::log={tmp_path}", **limits).embed_images([SOME] * 10)
    assert [rows for _, rows in read_log(tmp_path).batches] == sizes


def test_out_of_memory_halves_once_and_remembers(tmp_path) -> None:
    """16 rows where 10 fit: one retry, then no call with more than 8."""
    encoder = load_encoder(f"fake::log={tmp_path}&max_rows=10", max_batch_rows=16)
    stats = Stats()
    session = encoder.session(stats)
    done = [f for n in range(48) for f in session.push(n, [Item("text", f"t{n}")])] + session.flush()
    assert all(isinstance(f.outcomes[0], Vector) for f in done) and len(done) == 48
    assert [rows for _, rows in read_log(tmp_path).batches] == [16, 8, 8, 8, 8, 8, 8]
    assert stats.out_of_memory_retries == 1


def test_rows_that_do_not_fit_alone_fail() -> None:
    """Without room for a single row, each fails as out_of_memory, and nothing is raised."""

    class Tiny(Model):
        dim, modalities = 2, frozenset({"text"})

        def encode(self, modality, payloads):
            if any(len(p) > 5 for p in payloads):
                raise MemoryError("no room")
            return np.zeros((len(payloads), 2))

    outcomes = load_encoder(f"custom:{_importable(Tiny)}").embed("text", ["a", "b", "much too long", "c"])
    assert _codes(outcomes) == [None, None, "out_of_memory", None]


def test_the_memory_of_a_failed_call_is_free_for_the_retry() -> None:
    """Nothing of the call that ran out of memory is alive when its halves run: 3 rows fit, and all 8 succeed."""
    alive: weakref.WeakSet = weakref.WeakSet()

    class Activation:
        pass

    class Small(Model):
        dim, modalities = 1, frozenset({"text"})

        def encode(self, modality, payloads):
            activations = [Activation() for _ in payloads]
            alive.update(activations)
            if len(alive) > 3:
                raise MemoryError(f"{len(alive)} activations")
            return np.zeros((len(payloads), 1))

    outcomes = load_encoder(f"custom:{_importable(Small)}", max_batch_rows=8).embed("text", list("abcdefgh"))
    assert _codes(outcomes) == [None] * 8


def test_a_row_that_is_too_large_does_not_limit_the_others() -> None:
    """After it, micro-batches are as large as before."""
    sizes = []

    class Picky(Model):
        dim, modalities = 1, frozenset({"text"})

        def encode(self, modality, payloads):
            sizes.append(len(payloads))
            if "huge" in payloads:
                raise MemoryError("no room")
            return np.zeros((len(payloads), 1))

    texts = ["a", "huge", *"bcdefg", *"hijklmno"]
    outcomes = load_encoder(f"custom:{_importable(Picky)}", max_batch_rows=8).embed("text", texts)
    assert _codes(outcomes) == [None, "out_of_memory", *[None] * 14]
    assert sizes == [8, 4, 2, 1, 1, 2, 4, 8]


def test_a_row_of_many_items_is_limited_too() -> None:
    """Not all of the 3,000 images in one row are decoded before the first is encoded."""
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    class Payload:
        pass

    class Counting(Model):
        dim, modalities = 1, frozenset({"image"})

        def prepare(self, modality, content, spec):
            nonlocal most
            payload = Payload()
            alive.add(payload)
            most = max(most, len(alive))
            return Prepared(payload)

        def encode(self, modality, payloads):
            return np.zeros((len(payloads), 1))

    session = load_encoder(f"custom:{_importable(Counting)}", max_batch_rows=8).session()
    done = session.push("row", [Item("image", SMALL)] * 3000) + session.flush()
    assert [len(f.outcomes) for f in done] == [3000]
    assert most <= 5 * 8


def test_audio_after_texts_is_limited_too() -> None:
    """Small texts don't make the window assume small audio clips, before one was prepared."""
    window = Window(128, 1000)
    window.record(Prepared(np.zeros(2, np.int8)), may_be_audio=False)
    assert not window.is_full(127)
    window.expect_audio(100)
    assert window.is_full(10) and not window.is_full(9)
    window.record(Prepared(np.zeros(20, np.int8)), may_be_audio=True)
    window.expect_audio(100)
    assert window.is_full(50) and not window.is_full(49)


def test_slow_uris_do_not_hold_up_others() -> None:
    """While some addresses hang, later rows are embedded."""
    options = {"max_batch_rows": 2, "allow_private_addresses": True, "fetch_timeout_s": 8, "fetch_threads": 8}
    with LoopbackServer() as server:
        embedded_before_the_end = []
        session = load_encoder("fake::", **options).session(stats := Stats())
        slow = [Item("image", Uri(server.url(f"/slow?n={n}"))) for n in range(4)]
        quick = [Item("image", Uri(server.url(f"/photo.jpg?n={n}"))) for n in range(20)]
        for number, item in enumerate([*slow, *quick]):
            session.push(number, [item])
            embedded_before_the_end.append(stats.embedded)
        assert embedded_before_the_end[-1] > 0  # it would be 0 if values were received in order
        assert not stats.failed
        done = session.flush()
    assert stats.failed == {"fetch_failed": 4} and stats.embedded == 20
    assert [f.token for f in done] == list(range(24))


def test_a_session_cannot_be_used_after_an_error() -> None:
    """Later pushes raise instead of losing rows."""

    class Breaking(Model):
        dim, modalities = 1, frozenset({"text"})

        def encode(self, modality, payloads):
            raise DeviceError("the device is gone")

    session = load_encoder(f"custom:{_importable(Breaking)}", max_batch_rows=1).session()
    with pytest.raises(DeviceError, match="gone"):
        session.push(1, [Item("text", "a")])
    with pytest.raises(ClipmillError, match="this session was closed or ended with an error"):
        session.push(2, [Item("text", "b")])


def test_leaving_a_session_cancels_pending_fetches() -> None:
    """URIs whose results are no longer needed are not fetched."""
    options = {"allow_private_addresses": True, "fetch_timeout_s": 1, "fetch_threads": 1, "max_fetch_bytes": 999_999}
    with LoopbackServer() as server:
        with load_encoder("fake::", **options).session() as session:
            session.push(0, [Item("image", Uri(server.url("/slow")))])
            session.push(1, [Item("image", Uri(server.url("/photo.jpg")))])
        # the only fetching thread is free again after the first URI, and takes the next one that was not cancelled
        again = load_encoder("fake::", **options).embed_items([Item("image", Uri(server.url("/empty")))])
        assert _codes(again) == ["empty"]
        assert server.counts["/photo.jpg"] == 0


def test_the_pixel_budget_is_fair() -> None:
    """A large image is decoded before smaller ones that came later. Content without pixels never waits."""
    budget, order = PixelBudget(), []

    def use(name: str, pixels: int, started: threading.Event) -> None:
        started.set()
        with budget.hold(pixels, 100):
            order.append(name)

    with budget.hold(60, 100):
        threads = []
        for name, pixels in (("large", 90), ("small", 10)):
            started = threading.Event()
            threads.append(threading.Thread(target=use, args=(name, pixels, started)))
            threads[-1].start()
            started.wait()
            deadline = time.monotonic() + 20
            while len(budget._queue) < len(threads):
                assert time.monotonic() < deadline, f"{name} does not wait"
        with budget.hold(0, 100):
            order.append("text")
    [t.join() for t in threads]
    assert order == ["text", "large", "small"]


def _importable(factory: type) -> str:
    """Make a class importable for `custom:`."""
    module = sys.modules.setdefault("own_encoders", type(sys)("own_encoders"))
    setattr(module, factory.__name__, factory)
    return f"own_encoders:{factory.__name__}"


def test_a_model_that_returns_a_wrong_shape_ends_the_job() -> None:
    """A wrong shape is not a failure of a row."""

    class Wrong(Model):
        dim, modalities = 2, frozenset({"text"})

        def encode(self, modality, payloads):
            return np.zeros((1, 3))

    with pytest.raises(ClipmillError, match=r"shape \(1, 3\) for 2 rows of dim 2"):
        load_encoder(f"custom:{_importable(Wrong)}").embed("text", ["a", "b"])


@pytest.mark.parametrize("streams", [0, True, 1.5, "2"])
def test_calls_at_once_of_a_custom_encoder_are_checked(streams: object) -> None:
    class Many(Model):
        dim, modalities = 2, frozenset({"text"})

        def encode(self, modality, payloads):
            return np.zeros((len(payloads), 2))

    Many.streams = streams  # type: ignore[assignment]
    with pytest.raises(WeightsError, match=f"has streams={streams!r}; it is the number of calls"):
        load_encoder(f"custom:{_importable(Many)}")


def test_a_vector_that_is_not_finite_is_a_failure() -> None:
    """NaN and infinity never get into a dataset."""

    class Dividing(Model):
        dim, modalities = 1, frozenset({"text"})

        def prepare(self, modality, content, spec):
            return Prepared(float(content))

        def encode(self, modality, payloads):
            with np.errstate(all="ignore"):
                return np.array([[1.0]]) / np.array(payloads, np.float32)[:, None]

    outcomes = load_encoder(f"custom:{_importable(Dividing)}").embed("text", ["2", "0", "nonsense", "4"])
    assert _codes(outcomes) == [None, "encode_failed", "undecodable", None]
    assert outcomes[3].values[0] == 0.25


def test_the_number_of_rows_in_flight_is_limited() -> None:
    """Only a few micro-batches of rows are held, however many are pushed."""
    session = load_encoder("fake::", max_batch_rows=8).session()
    waiting = 0
    for number in range(500):
        picture = encode(SMALL + np.uint8(number // 256) + np.array([number % 256, 0, 0], np.uint8))
        waiting += 1 - len(session.push(number, [Item("image", picture)]))
        assert waiting <= 4 * 8
    assert len(session.flush()) == waiting


def test_rows_waiting_for_a_slow_uri_are_limited() -> None:
    """The number of finished rows that wait for an older one is limited."""
    options = {"max_batch_rows": 2, "allow_private_addresses": True, "fetch_timeout_s": 1}
    with LoopbackServer() as server:
        session = load_encoder("fake::", **options).session()
        done = session.push("slow", [Item("image", Uri(server.url("/slow")))])
        for number in range(200):
            done += session.push(number, [Item("text", f"x{number}")])
            assert number + 2 - len(done) <= 16 * 2
        done += session.flush()
    assert [f.token for f in done] == ["slow", *range(200)]
    assert _codes(done[0].outcomes) == ["fetch_failed"]


def test_embed_texts_raises_the_failures_that_embed_returns() -> None:
    """A matrix needs a vector for each row."""
    encoder = load_encoder("fake::")
    with pytest.raises(EmbeddingError, match=r"row 1 could not be embedded \(and 1 more\): empty at tokenize"):
        encoder.embed_texts(["a", "", " "])
    with pytest.raises(TypeError, match="put it into a list"):
        encoder.embed_texts("abc")
    assert encoder.embed_texts([]).shape == (0, 8)


def test_normalizing_gives_length_one_and_shares_the_model() -> None:
    """Specs that differ only in limits and normalisation share one loaded copy."""
    unload_all()
    before = count_loads()
    raw = load_encoder("fake::dim=5").embed_texts(["abc", "z"])
    unit = load_encoder("fake::dim=5", normalize=True, max_batch_rows=1, decode="exact").embed_texts(["abc", "z"])
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-6)
    assert count_loads() - before == 1


def test_loaded_once_under_many_threads(tmp_path) -> None:
    """Sixteen threads that call `load_encoder` at once get one object."""
    spec = EncoderSpec(f"fake::log={tmp_path}")
    found: list = []
    threads = [threading.Thread(target=lambda: found.append(load_encoder(spec))) for _ in range(16)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len({id(e) for e in found}) == 1
    assert read_log(tmp_path).loads == {os.getpid(): 1}


def test_encoders_cannot_be_pickled() -> None:
    """The error says what to send instead."""
    with pytest.raises(TypeError, match=r"load_encoder\(spec\)"):
        pickle.dumps(load_encoder("fake::"))


def test_callers_data_is_not_changed() -> None:
    """Arrays and documents are not modified."""
    array = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    floats = array.astype(np.float32) / 255
    document = Document(tensor=array, tags={"a": 1})
    before = copy.deepcopy((array, floats, document.tags, document.embedding))
    load_encoder("fake::").embed("image", [array, floats])
    load_encoder("demo").embed("image", [array, floats])
    load_encoder("fake::").embed_items([document.item()])
    np.testing.assert_array_equal(array, before[0])
    np.testing.assert_array_equal(floats, before[1])
    assert (document.tags, document.embedding) == before[2:]


def test_long_texts_are_truncated_and_counted_or_fail() -> None:
    """Depending on `on_long_text`, with the real tokenizer."""
    long = "word " * 200
    outcome, short = load_encoder("demo").embed("text", [long, "short"])
    assert outcome.truncated and not short.truncated
    assert _codes(load_encoder("demo", on_long_text="fail").embed("text", [long, "short"])) == ["text_too_long", None]


def test_limits_of_the_spec_are_enforced() -> None:
    """Too many characters or pixels are failures that name the option."""
    encoder = load_encoder("demo", max_text_chars=10, max_image_pixels=100)
    failures = [*encoder.embed("text", ["x" * 11]), *encoder.embed("image", [encode(np.zeros((11, 10, 3), np.uint8))])]
    assert _codes(failures) == ["too_large", "too_large"]
    assert "max_text_chars" in failures[0].message and "max_image_pixels" in failures[1].message
