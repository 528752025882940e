"""What the warm-up's half in the container leaves in a base."""

import json
from pathlib import Path

from bake.image.build.warmup_inside import complete_config


def test_a_config_gets_the_settings_that_it_lacks_and_keeps_its_own(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"live_previews_enable": false, "of_an_extension": 1}')
    complete_config(config, {"live_previews_enable": True, "CLIP_stop_at_last_layers": 1})
    assert json.loads(config.read_text()) == {
        "live_previews_enable": False,
        "of_an_extension": 1,
        "CLIP_stop_at_last_layers": 1,
    }
