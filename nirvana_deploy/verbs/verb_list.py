"""All verbs of the command line, in the order in which they are listed."""

from nirvana_deploy.verbs.build_verb import BUILD
from nirvana_deploy.verbs.deploy_verb import DEPLOY
from nirvana_deploy.verbs.doctor_verb import DOCTOR
from nirvana_deploy.verbs.export_verb import EXPORT
from nirvana_deploy.verbs.inspect_verb import INSPECT
from nirvana_deploy.verbs.onnx_verbs import SURGEON
from nirvana_deploy.verbs.profile_verb import PROFILE
from nirvana_deploy.verbs.prune_verbs import PRUNE, SCORE
from nirvana_deploy.verbs.report_verb import REPORT
from nirvana_deploy.verbs.serving_verbs import PACKAGE, SERVE
from nirvana_deploy.verbs.sweep_verb import SWEEP
from nirvana_deploy.verbs.target_verbs import TARGETS
from nirvana_deploy.verbs.verify_verb import VERIFY

VERBS = (
    DEPLOY,
    PRUNE,
    SCORE,
    EXPORT,
    VERIFY,
    BUILD,
    PROFILE,
    SWEEP,
    REPORT,
    PACKAGE,
    SERVE,
    SURGEON,
    INSPECT,
    TARGETS,
    DOCTOR,
)
