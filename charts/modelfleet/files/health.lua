-- Argo CD's health of a ModelDeployment or WarmPool, by the rules of kstatus: resource.customizations.health.
local function progressing(message)
  return {status = "Progressing", message = message}
end

local status = obj.status or {}
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local function holds(kind)
  return conditions[kind] ~= nil and conditions[kind].status == "True"
end

local function told(kind)
  local condition = conditions[kind]
  if condition.message ~= nil and condition.message ~= "" then
    return condition.reason .. ": " .. condition.message
  end
  return condition.reason
end

if obj.metadata.deletionTimestamp ~= nil then
  return progressing("being deleted")
end
if conditions["Ready"] == nil then
  return progressing("the operator has not looked at it yet")
end
-- Before the generation is compared, nothing that follows speaks of today's spec.
if status.observedGeneration ~= obj.metadata.generation then
  return progressing("the operator has not seen the last change yet")
end
if holds("Stalled") then
  return {status = "Degraded", message = told("Stalled")}
end
if not holds("Ready") then
  local message = told("Ready")
  local start = status.coldStart
  if start ~= nil then
    message = message .. " (" .. start.phase .. ", " .. start.percent .. " %)"
  end
  return progressing(message)
end
-- It serves, and is not yet what the spec asks for: kstatus calls that InProgress.
if holds("Reconciling") then
  return progressing(told("Reconciling"))
end
return {status = "Healthy", message = told("Ready")}
