"""Prompt sets as others publish them: a registry of facts, readers of their files, the paper's split, wrappers.

Nothing of them ships with the workbench: files are the user's own downloads, or come from the hub when asked for.
"""

from workbench.published.contrasts import PaperSplit as PaperSplit
from workbench.published.contrasts import load_contrast as load_contrast
from workbench.published.contrasts import paper_split as paper_split
from workbench.published.lookup import SETS as SETS
from workbench.published.lookup import published_set as published_set
from workbench.published.reading import FileCheck as FileCheck
from workbench.published.reading import check_published as check_published
from workbench.published.reading import load_published as load_published
from workbench.published.registry import PublishedSet as PublishedSet
from workbench.published.texts import near_duplicates as near_duplicates
from workbench.published.wrapping import load_templates as load_templates
from workbench.published.wrapping import wrap as wrap
