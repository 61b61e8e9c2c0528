"""What each unit is worth: saliencies, and the damage done by cutting."""
