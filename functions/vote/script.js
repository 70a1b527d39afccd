(()=>{
const form=document.querySelector("form[data-sending]"),say=document.getElementById("say");
if(!form||!window.fetch||!window.URLSearchParams)return;
const poll=form.elements.poll.value,key="ballot-"+poll;
let sending=false,native=false,timer,wait=1;
// One press is one body: what is sent again, also after a reload, has the sequence of the press.
const kept={
get(){try{return sessionStorage.getItem(key)}catch(e){}},
set(body){try{body?sessionStorage.setItem(key,body):sessionStorage.removeItem(key)}catch(e){}}};
const button=body=>form.querySelector('button[value="'+new URLSearchParams(body).get("choice")+'"]');
function begin(body){
sending=true;wait=1;
form.setAttribute("aria-busy","true");
form.querySelectorAll("button").forEach(b=>b.setAttribute("aria-pressed",b===button(body)));
tell(form.dataset.sending);
send(body)}
function tell(text){say.hidden=false;say.textContent=text}
function end(){kept.set();sending=false;clearTimeout(timer)}
async function send(body){
clearTimeout(timer);
let pause=wait;
const stop=new AbortController,limit=setTimeout(()=>stop.abort(),12000);
try{
const answer=await fetch(form.action,{method:"POST",body,signal:stop.signal,headers:{"Accept":"application/json","Content-Type":"application/x-www-form-urlencoded"}});
if(answer.ok){const got=await answer.json();end();location.replace("?poll="+poll+(got.status=="unchanged"?"&kept=1":""));return}
// A refusal is final: the same press without this script shows the page that explains it.
if(answer.status<500&&answer.status!=429&&answer.status!=408&&answer.status!=425){end();native=true;const b=button(body);b?b.click():location.reload();return}
pause=Math.max(pause,+answer.headers.get("Retry-After")||0)}
catch(e){}
finally{clearTimeout(limit)}
if(!sending)return;
wait=Math.min(wait*2,30);
tell(form.dataset.retrying);
timer=setTimeout(()=>send(body),(pause+Math.random())*1000)}
form.addEventListener("submit",e=>{
if(native||!e.submitter)return;
e.preventDefault();
if(sending)return;
const data=new FormData(form);
data.append("choice",e.submitter.value);
const body=new URLSearchParams(data).toString();
kept.set(body);
begin(body)});
addEventListener("online",()=>{if(sending&&kept.get()){wait=1;send(kept.get())}});
addEventListener("pageshow",e=>{if(e.persisted)location.reload()});
if(kept.get())begin(kept.get())})()
