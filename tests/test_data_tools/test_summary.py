# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import json

from minigpt4_cli.main import main


def test_figures_of_texts_images_and_tokens(records, tmp_path, capsys):
    out = tmp_path / 'out'
    content = [dict(image_id=1, caption='red star ' * 200)] * 3
    content += [dict(image_id=2, caption='a red star')]
    (records / 'filter_cap.json').write_text(json.dumps(content))
    config = 'configs/minigpt4/stage2_nano.py'
    words = [str(records), '--near', '0', '-o', str(out), '--config', config]
    assert main(['data', 'check', *words]) == 0
    found = json.loads((out / 'summary.json').read_text())
    assert found['words']['max'] == 400 and found['words']['min'] == 3
    assert found['width']['median'] == 60 and found['height']['max'] == 40
    assert found['aspect_ratio']['mean'] == 1.5
    assert found['different_texts'] == 2
    assert found['share_over_max_text_length'] == 0.75
    assert found['share_over_context'] == 0
    assert found['model']['max_text_length'] == 160
    assert found['problems']['truncated']['count'] == 3
    assert found['problems']['duplicate-texts']['count'] == 2
    assert found['parts'] == {
        'filter_cap.json': dict(kind='records', records=4, held_out=False)
    }
