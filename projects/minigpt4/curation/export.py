# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Export a curation: texts in the layouts of trainings, images, a datasheet.

The export is a folder that appears complete under its name, or not at all.
The same ledger with the same settings gives the same bytes in every file.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from ..datasets.parse_records import RecordError
from ..prompts.text_validation import check_text
from ..utils.atomic import replacing
from ..utils.errors import printable
from .added_files import ImageProblem
from .datasheet import DATA_FILE, FORMAT, Datasheet, write_datasheet
from .export_images import (
    Placement,
    place_image,
    read_exported,
)
from .export_layouts import (
    IMAGE_FOLDER,
    LAYOUTS,
    ExportRow,
    Layout,
    draw_question,
)
from .history import histories
from .ledger import Ledger
from .pipeline import PlannedStep
from .selection import AgreeRule, SelectedImage, Selection, select_images
from .statistics import collect_numbers, measure_lengths

INVALID = 'invalid text'
# of paper section 3.3, and three more that ask for the same
QUESTIONS = (
    'Describe this image in detail.',
    'Take a look at this image and describe what you notice.',
    'Please provide a detailed description of the image.',
    'Could you describe the contents of this image for me?',
)
_NonEmpty = Annotated[str, Field(min_length=1)]
LayoutName = Literal[
    'cc_sbu_align', 'conversations', 'llava', 'parquet', 'preference'
]


class ExportSettings(BaseModel):
    """Settings of an export."""

    model_config = ConfigDict(extra='forbid', frozen=True)

    layouts: list[LayoutName] = Field(
        default=['cc_sbu_align'],
        min_length=1,
        description='layouts of the texts; they share the images',
    )
    images: Placement = Field(
        default='copy',
        description='copy, hardlink or symlink: how JPEG files are placed',
    )
    unreviewed: bool = Field(
        default=False,
        description='export images without review too, where others have one',
    )
    agree: AgreeRule = Field(
        default='all',
        description='all or any: reviewers of an image that must accept it',
    )
    questions: list[_NonEmpty] = Field(
        default=list(QUESTIONS),
        min_length=1,
        description='questions for the layouts that need one; the digest of '
        'the image draws one of them',
    )
    name_reviewers: bool = Field(
        default=False,
        description='write the names of the reviewers into the datasheet',
    )
    title: str = Field(
        default='A curated set of image descriptions',
        description='title of the datasheet',
    )
    purpose: str = Field(
        default='', description='what the set was made for, for the datasheet'
    )
    contact: str = Field(
        default='', description='who maintains the set, for the datasheet'
    )


class Omitted(NamedTuple):
    """A selected image that could not be exported.

    Attributes:
        number: Of the image in the ledger.
        path: Its file.
        kind: A key of :data:`~.added_files.PROBLEMS`, or ``'invalid
            text'``.
        reason: One sentence.
    """

    number: int
    path: str
    kind: str
    reason: str


class Export(NamedTuple):
    """What an export contains.

    Attributes:
        selection: The selected images, with counts of the others.
        rows: The exported images.
        omitted: The selected images that could not be exported.
        converted: Images that were converted to JPEG.
        layouts: Number of records by file.
    """

    selection: Selection
    rows: list[SelectedImage]
    omitted: list[Omitted]
    converted: int
    layouts: dict[str, int]


def export_curation(
    ledger: Ledger,
    planned: Sequence[PlannedStep],
    settings: ExportSettings,
    out: Path,
    overwrite: bool = False,
) -> Export:
    """Export the accepted texts of a curation.

    Args:
        ledger: The ledger.
        planned: Its steps with their present settings.
        settings: Settings of the export.
        out: The folder to write.
        overwrite: Whether an earlier export there is replaced.

    Raises:
        ValueError: No image can be exported, or the folder is no export.
        OSError: A file cannot be written.
    """
    selection = select_images(
        histories(ledger, planned), settings.unreviewed, settings.agree
    )
    if not selection.rows:
        raise ValueError(_nothing(selection))
    with _replacing_export(out, overwrite) as folder:
        (folder / IMAGE_FOLDER).mkdir(parents=True)
        layouts = [LAYOUTS[n](folder) for n in dict.fromkeys(settings.layouts)]
        export = _write_rows(folder, layouts, selection, settings)
        if not export.rows:
            shown = '; '.join(o.reason.rstrip('.') for o in export.omitted[:3])
            raise ValueError(
                f'none of the {len(selection.rows)} selected images can be '
                f'exported: {shown}.'
            )
        if not any((folder / IMAGE_FOLDER).iterdir()):
            (folder / IMAGE_FOLDER).rmdir()  # Parquet has its images
        numbers = collect_numbers(ledger, planned, histories(ledger, planned))
        write_datasheet(
            folder,
            Datasheet(
                numbers,
                settings.model_dump(mode='json'),
                _counts(export),
                [o._asdict() for o in export.omitted],
                export.layouts,
                measure_lengths(row.text for row in export.rows),
            ),
        )
    return export


def is_export(folder: Path) -> bool:
    """Return whether a folder is an export of a curation."""
    try:
        found = json.loads((folder / DATA_FILE).read_text('utf-8'))
        return found['format'] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _write_rows(
    folder: Path,
    layouts: Sequence[Layout],
    selection: Selection,
    settings: ExportSettings,
) -> Export:
    """Write images and layouts."""
    exported: list[SelectedImage] = []
    omitted: list[Omitted] = []
    converted = 0
    share_images = any(name != 'parquet' for name in settings.layouts)
    for selected in selection.rows:
        image = selected.image
        try:
            text = check_text(selected.text, 'the text').strip()
            selected = selected._replace(text=text)
            content = read_exported(image)
            row = ExportRow(
                str(image.id),
                selected,
                draw_question(settings.questions, image),
                content.data,
            )
            records = [layout.record(row) for layout in layouts]
        except ImageProblem as error:
            kind, reason = error.kind, str(error)
        except ValueError as error:  # RecordError or of check_text
            kind, reason = INVALID, f'the text of image {image.id} {error}'
            if not isinstance(error, RecordError):
                reason = f'image {image.id}: {error}'
        else:
            if share_images:
                path = folder / IMAGE_FOLDER / row.file_name
                place_image(image, content, path, settings.images)
            for layout, record in zip(layouts, records, strict=True):
                layout.add(row, record)
            converted += content.converted
            exported.append(selected)
            continue
        omitted.append(
            Omitted(image.id, printable(image.path), kind, printable(reason))
        )
    for layout in layouts:
        layout.close()
    counts = {layout.file: layout.num_rows for layout in layouts}
    return Export(selection, exported, omitted, converted, counts)


def _counts(export: Export) -> dict[str, int]:
    """Return the counts of an export for its datasheet."""
    counts = dict(exported=len(export.rows), **export.selection.omitted)
    for item in export.omitted:
        counts[item.kind] = counts.get(item.kind, 0) + 1
    for decision in ('accept', 'edit', 'none'):
        number = sum(row.decision == decision for row in export.rows)
        counts[f'exported, {_DECISIONS[decision]}'] = number
    counts['converted to JPEG'] = export.converted
    counts['texts of reviewers differ'] = export.selection.texts_differ
    counts['rejected by one reviewer'] = export.selection.overruled
    return counts


_DECISIONS = dict(
    accept='accepted in review', edit='edited in review', none='not reviewed'
)


def _nothing(selection: Selection) -> str:
    if not selection.omitted:
        return 'the ledger has no images; add some first.'
    reasons = ', '.join(f'{n} {r}' for r, n in selection.omitted.items())
    advice = (
        ' Review some, or export those without review too.'
        if selection.omitted.get('not reviewed')
        else ' Run the steps first.'
        if selection.omitted.get('no result')
        else ''
    )
    return f'no image can be exported ({reasons}).{advice}'


@contextlib.contextmanager
def _replacing_export(out: Path, overwrite: bool) -> Iterator[Path]:
    """Write a folder that replaces an earlier export, completely or not.

    A folder cannot be renamed to one that is not empty, so the earlier export
    is renamed to ``.NAME.replaced`` first. If the process is killed before
    the new one has its name, the next export renames the earlier one back.
    """
    new, earlier = (
        out.with_name(f'.{out.name}.{suffix}')
        for suffix in ('new', 'replaced')
    )
    if is_export(earlier):
        if os.path.lexists(out):
            shutil.rmtree(earlier)
        else:
            os.replace(earlier, out)
    if not (overwrite and out.is_dir() and any(out.iterdir())):
        with replacing(out) as folder:
            yield folder
        return
    if not is_export(out):
        raise ValueError(
            f'{out} is not an export of a curation and is not replaced; give '
            'another name.'
        )
    if is_export(new):
        shutil.rmtree(new)
    with replacing(new) as folder:
        yield folder
    os.replace(out, earlier)
    os.replace(new, out)
    shutil.rmtree(earlier)
