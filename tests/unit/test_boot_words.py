"""Boot between jobs, for what prompts say beside LoRAs: embeddings, hypernetworks; and for GFPGAN's noise."""

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from runtime.boot import jobs
from tests.unit.test_boot_jobs import Processing, draw, processing

__all__ = ["processing"]


def test_a_conditioning_is_made_again_for_other_embeddings(
    processing: Processing,
) -> None:
    words: dict[str, Any] = {}
    processing.model_hijack.embedding_db = SimpleNamespace(word_embeddings=words)
    draw(processing)
    words["fog"] = SimpleNamespace(name="fog")
    p = draw(processing)
    draw(processing)
    assert processing.made == ["p", "p"]
    assert p.info["bakery"]["embeddings"] == ["fog"]
    # The same name, another file: the webui read its folder again.
    words["fog"] = Embedding("fog")
    draw(processing)
    words["fog"] = Embedding("fog")
    draw(processing)
    del words["fog"]
    assert draw(processing).info["bakery"]["embeddings"] == []
    assert processing.made == ["p"] * 5


class Embedding:
    def __init__(self, name: str) -> None:
        self.name = name


class Hypernetworks:
    """AUTOMATIC1111's `modules.hypernetworks.hypernetwork`: what is loaded is known by the name in the file."""

    def __init__(self, **names: str) -> None:
        self.shared = SimpleNamespace(loaded_hypernetworks=[])

        def load_hypernetwork(name: str) -> Any:
            return SimpleNamespace(name=names[name], file=name) if name in names else None

        def load_hypernetworks(wanted: list[str], multipliers: Any = None) -> None:
            loaded = self.shared.loaded_hypernetworks
            known = {each.name: each for each in loaded if each.name in wanted}
            loaded.clear()
            made = [known.get(name) or self.load_hypernetwork(name) for name in wanted]
            loaded += [each for each in made if each is not None]

        self.load_hypernetwork = load_hypernetwork
        self.load_hypernetworks = load_hypernetworks


def test_a_hypernetwork_is_known_by_its_file_and_told_of(
    processing: Processing,
) -> None:
    module: Any = Hypernetworks(style="other", other="other")
    jobs._name_by_file(module)
    of_the_webui: Any = processing
    of_the_webui.shared = module.shared
    first = draw(processing, during=lambda: module.load_hypernetworks(["style", "none"]))
    assert first.info["bakery"]["hypernetworks"] == ["style"]
    second = draw(processing, during=lambda: module.load_hypernetworks(["other"]))
    assert second.info["bakery"]["hypernetworks"] == ["other"]
    assert [each.file for each in module.shared.loaded_hypernetworks] == ["other"]
    third = draw(processing, disable_extra_networks=True)
    assert third.info["bakery"]["hypernetworks"] == []
    assert module.shared.loaded_hypernetworks == []


class Generator:
    """torch's own generator: a seed, and how much was drawn since."""

    def __init__(self) -> None:
        self.random = self
        self.state = (0, 0)

    def manual_seed(self, seed: int) -> None:
        self.state = (seed, 0)

    def draw(self) -> tuple[int, int]:
        self.state = (self.state[0], self.state[1] + 1)
        return self.state

    @contextlib.contextmanager
    def fork_rng(self) -> Iterator[None]:
        kept = self.state
        yield
        self.state = kept


def test_gfpgan_begins_anew_for_each_picture() -> None:
    torch = Generator()

    class FaceRestorerGFPGAN:
        is_loaded = False

        def restore_with_helper(self, np_image: Any, restore_face: Any) -> Any:
            if not self.is_loaded:
                torch.draw()
            FaceRestorerGFPGAN.is_loaded = True
            return [restore_face(face) for face in np_image]

        def restore(self, np_image: Any) -> Any:
            return self.restore_with_helper(np_image, lambda face: (face, torch.draw()))

    jobs._seed_restorer(SimpleNamespace(FaceRestorerGFPGAN=FaceRestorerGFPGAN, torch=torch))
    torch.manual_seed(5)
    before = torch.draw()
    drawn = [FaceRestorerGFPGAN().restore(faces) for faces in ("ab", "c")]
    assert drawn == [[("a", (0, 1)), ("b", (0, 2))], [("c", (0, 1))]]
    assert (before, torch.draw()) == ((5, 1), (5, 2)), "all others draw on as before"
