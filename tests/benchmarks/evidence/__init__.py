"""The evidence report: do the recommendations and the published remedies do what they say?"""

from . import study_a, study_b, study_c, study_d, study_e, study_f

STUDIES = {study.NAME: study for study in (study_a, study_b, study_c, study_d, study_e, study_f)}
"""Every study by its letter."""
