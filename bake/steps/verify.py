"""The step `verify`: every file was looked at and, where the engine has the image, its worker has drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bake.image.oci.model import Image
from bake.image.verify.image import refuse_bad, verify_final, verify_image
from bake.plan.code import sources_of
from bake.plan.state import Document
from bake.plan.step import Earlier, Situation, StepKind
from bake.steps.run import Run
from runtime.worker import Worker

if TYPE_CHECKING:
    from bake.steps.stream import StreamedWeights


def _document(situation: Situation, earlier: Earlier) -> Document:
    return {
        "image": earlier["assemble"].key,
        "worker": str(situation.options.load),
        **sources_of(__name__),
    }


VERIFY = StepKind(name="verify", document=_document)


def verify_assembled(
    run: Run,
    worker: Worker,
    image: Image,
    reference: str,
    *,
    streamed: StreamedWeights | None = None,
) -> Mapping[str, Any]:
    """Looks at every file and for secrets; where the engine has the image, its worker serves a picture."""
    context = run.context

    def check() -> Mapping[str, Any]:
        if not context.options.load:
            verdict = verify_image(
                image,
                name=reference,
                console=context.console,
                lock=run.lock,
                proven=streamed.proven if streamed else None,
                kept=context.kept,
                downloads_base=False,
            )
            refuse_bad(verdict)
            return verdict.as_json()
        return verify_final(
            reference,
            engine=run.engine,
            worker=worker,
            warmup=context.manifest.warmup,
            folder=context.folder,
            console=context.console,
            kept=context.kept,
        )

    return run.step("verify", check, draws=context.options.load)
